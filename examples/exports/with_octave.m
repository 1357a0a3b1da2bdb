% Opens a file of `scidaq export` in Octave or MATLAB:
%   scidaq export dmm/readings --format mat --out readings.mat
%   octave with_octave.m readings.mat
% Larger ones MATLAB reads from HDF5: h5read('readings.h5', '/entry/dmm_readings/voltage')

files = argv();
all = load(files{1});
readings = all.dmm_readings;
seconds = double(readings.time - readings.time(1)) * 1e-9;
voltage = readings.voltage;
voltage(~readings.voltage_valid) = NaN;   % where a value is missing
printf("%s: %d rows in %.3f s\n", readings.stream, numel(voltage), seconds(end));
printf("voltage: mean %.6g %s\n", mean(voltage(~isnan(voltage))), readings.units.voltage);
printf("gaps: %d, because of %s\n", numel(readings.gaps.first), readings.gaps.reason{1});

"""`scidaq doctor`: what an expert would look at before trusting a machine with an experiment, each with what to do.

Every check runs in a thread of its own and within the same bound of time, so that a disk or an instrument that hangs
hides nothing else. Recorded data is never touched: what is measured on the disk is measured in a file without a name.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import shutil
import socket
import stat
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scidaq import __version__
from scidaq.cli.checking import ask, in_use
from scidaq.cli.times import NS, shown, size
from scidaq.clock import STEP_NS, Clock
from scidaq.errors import ScidaqError

if TYPE_CHECKING:
    from scidaq.config import Config

BOUND_S = 10.0
"""How long all of it may take."""
ASK_S = 5.0
MEASURE_S = 1.0
"""How long each of the two measurements of the disk may take."""
MEASURE_BYTES, MEASURE_BESIDE_BYTES = 128 << 20, 16 << 20
"""The most that is written for it: alone on the disk, and beside a station that records."""
FEW_FILES = 4096
SECOND_S = 86_400


class Grade(StrEnum):
    """How it is."""

    OK = "ok"
    ADVICE = "advice"
    """It works; something could be better."""
    WRONG = "WRONG"
    """It does not work, or data is in danger."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer."""

    grade: Grade
    subject: str
    message: str
    advice: str = ""
    """What to do."""

    def __str__(self) -> str:
        return f"{self.grade:<6} {self.subject}: {self.message}{f'; {self.advice}' if self.advice else ''}"


def ok(subject: str, message: str) -> Finding:
    """All is well."""
    return Finding(Grade.OK, subject, message)


def advise(subject: str, message: str, advice: str = "") -> Finding:
    """Something could be better."""
    return Finding(Grade.ADVICE, subject, message, advice)


def wrong(subject: str, message: str, advice: str = "") -> Finding:
    """Something is wrong."""
    return Finding(Grade.WRONG, subject, message, advice)


Check = Callable[[], Iterable[Finding]]


def examine(checks: Mapping[str, Check], clock: Clock, bound_s: float = BOUND_S) -> Iterator[Finding]:
    """What each check finds, in their order; of one that fails or takes too long, that it did."""
    deadline = clock.monotonic_s() + bound_s
    begun = [(subject, _Checking(subject, check)) for subject, check in checks.items()]
    for subject, checking in begun:
        if not clock.wait(checking.ended, max(0.0, deadline - clock.monotonic_s())):
            yield advise(subject, f"not found out within {bound_s:g} s", "look at why it hangs: the disk, the network?")
        yield from list(checking.found)


class _Checking:
    """A check that is under way, in a thread that is left behind when it hangs."""

    def __init__(self, subject: str, check: Check) -> None:
        self._subject, self._check = subject, check
        self.found: list[Finding] = []
        self.ended = threading.Event()
        threading.Thread(target=self._run, name=f"doctor-{subject}", daemon=True).start()

    def _run(self) -> None:
        try:
            for finding in self._check():
                self.found.append(finding)
        except ScidaqError as error:
            self.found.append(wrong(self._subject, str(error)))
        except Exception as error:  # whatever it is, the other checks say what they have to say
            self.found.append(advise(self._subject, f"not found out: {type(error).__name__}: {error}"))
        self.ended.set()


def all_checks(config: Config | None, problems: Sequence[str], clock: Clock, *, offline: bool) -> dict[str, Check]:
    """Everything there is to look at; without a configuration, what needs none."""
    checks: dict[str, Check] = {"configuration": lambda: _configuration(config, problems)}
    running = config is not None and _runs(config.station.data_dir)
    if config is not None:
        data_dir = config.station.data_dir
        checks |= {
            "data directory": partial(_data_directory, config, running),
            "disk": partial(_disk, existing(data_dir), running, config.storage.sync_interval_ms),
            "space": partial(_space, config, clock),
            "recorded": partial(_recorded, data_dir, running, clock),
            "quarantine": partial(_quarantine, data_dir),
            "ports": partial(_ports, config, running),
            **({"station": partial(_station, data_dir)} if running else {}),
            "memory": partial(_memory, config),
        }
    checks |= {"clock": _clock, "limits": _limits, "processor": _processor, "versions": _versions}
    if config is not None:
        checks["instruments"] = partial(_instruments, config, clock, offline, running)
    return checks


def _runs(data_dir: Path) -> bool:
    try:
        return in_use(data_dir)
    except OSError:
        return False  # what may not be looked at is told where it is looked at


# ---- configuration --------------------------------------------------------------------------------------------------


def _configuration(config: Config | None, problems: Sequence[str]) -> Iterator[Finding]:
    if config is None:
        yield from (wrong("configuration", problem) for problem in problems)
        return
    yield ok("configuration", ", ".join(config.sources) or "no files; defaults, environment and command line")
    yield from (advise("configuration", warning) for warning in config.warnings)
    if not config.instruments:
        yield advise("configuration", "no instrument is configured", "nothing will be recorded until one is")


# ---- the data directory and its disk --------------------------------------------------------------------------------


def existing(path: Path) -> Path:
    """A directory, or the nearest one above that is there."""
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _data_directory(config: Config, running: bool) -> Iterator[Finding]:
    from scidaq.store import check_directory, file_system

    data_dir = config.station.data_dir
    check_directory(data_dir, config.storage.allow_network_filesystem)
    state = "in use by a running station" if running else "a station may record here"
    yield ok("data directory", f"{data_dir}, on {file_system(existing(data_dir)) or 'a file system'}: {state}")
    if data_dir.is_dir():
        yield from judge_owner(data_dir, data_dir.stat(), os.geteuid() if hasattr(os, "geteuid") else None)


def judge_owner(data_dir: Path, seen: os.stat_result, user: int | None) -> Iterator[Finding]:
    """Whose the data is, and who may change it."""
    if seen.st_mode & stat.S_IWOTH:
        yield wrong("data directory", "everybody on this machine may change it", f"chmod o-w {data_dir}")
    if user is not None and seen.st_uid != user:
        yield advise(
            "data directory",
            f"it belongs to user {seen.st_uid}, and you are user {user}",
            "run scidaq as its owner, or files of two owners will lie in it",
        )


def _disk(directory: Path, running: bool, sync_interval_ms: int) -> Iterator[Finding]:
    limit = MEASURE_BESIDE_BYTES if running else MEASURE_BYTES
    if shutil.disk_usage(directory).free < 4 * limit:
        yield advise("disk", "too little space to measure it")
        return
    with tempfile.TemporaryFile(dir=directory) as file:
        syncs = measure_syncs(file.fileno())
        yield from judge_syncs(syncs, sync_interval_ms)
        speed = measure_speed(file.fileno(), limit)
    beside = " beside the running station" if running else ""
    yield (ok if speed >= 50e6 else advise)("disk", f"writes {size(speed)} a second, synced{beside}")
    if not takes_direct(directory):
        yield advise(
            "disk", "does not take O_DIRECT", "fast streams go through the page cache, which costs processor time"
        )
    found = os.statvfs(directory) if hasattr(os, "statvfs") else None
    if found is not None and found.f_files:
        yield from judge_inodes(found.f_favail, found.f_files)


def measure_syncs(fd: int, seconds: float = MEASURE_S, most: int = 100) -> list[float]:
    """Seconds that making 4 KiB durable took, each time."""
    out: list[float] = []
    page, end = bytes(4096), time.monotonic() + seconds
    while len(out) < most and time.monotonic() < end:
        os.write(fd, page)
        before = time.monotonic()
        os.fsync(fd)
        out.append(time.monotonic() - before)
    return out


def judge_syncs(syncs: Sequence[float], sync_interval_ms: int) -> Iterator[Finding]:
    """Whether a sync fits into the interval at which everything is to be durable."""
    usual, worst = 1000 * statistics.median(syncs), 1000 * max(syncs)
    said = f"a sync takes {usual:.2g} ms, {worst:.2g} ms at worst of {len(syncs)}"
    if usual > sync_interval_ms:
        yield wrong("disk", said, f"raise storage.sync_interval_ms ({sync_interval_ms}), or use another disk")
    elif worst > sync_interval_ms:
        yield advise("disk", said, "now and then rows are durable later than storage.sync_interval_ms says")
    elif usual < 0.02:
        yield advise("disk", said, "no disk is that quick: a cache or memory answers, which a power cut may empty")
    else:
        yield ok("disk", said)


def measure_speed(fd: int, limit: int, seconds: float = MEASURE_S) -> float:
    """Bytes a second of writing a megabyte at a time, until they are durable."""
    block, written = os.urandom(1 << 20), 0
    before = time.monotonic()
    while written < limit and time.monotonic() - before < seconds:
        written += os.write(fd, block)
    os.fsync(fd)
    return written / (time.monotonic() - before)


def takes_direct(directory: Path) -> bool:
    """Whether files there may be opened past the page cache."""
    flags = getattr(os, "O_TMPFILE", 0), getattr(os, "O_DIRECT", 0)
    if not all(flags):
        return False
    try:
        os.close(os.open(directory, os.O_RDWR | flags[0] | flags[1], 0o600))
    except OSError:
        return False
    return True


def judge_inodes(free: int, total: int) -> Iterator[Finding]:
    """Whether files can still be made."""
    if free < 1000 or free < total // 100:
        yield wrong("disk", f"only {free} of {total} files can still be made", "remove small files elsewhere on it")


def _space(config: Config, clock: Clock) -> Iterator[Finding]:
    from scidaq.store import DURABLE_MAP, read_marks

    data_dir = config.station.data_dir
    marks = read_marks(data_dir / DURABLE_MAP).values()
    now = clock.now_ns()
    present = [m for m in marks if m.first_ns >= 0 and now - m.last_ns < 60 * NS and m.last_ns - m.first_ns > 10 * NS]
    rate = sum(m.bytes / ((m.last_ns - m.first_ns) / NS) for m in present)
    free = shutil.disk_usage(existing(data_dir)).free
    yield from judge_space(free, rate, config.storage.low_space_bytes)


def judge_space(free: float, rate: float, low: float) -> Iterator[Finding]:
    """Whether there is room, and for how long at the present rate (bytes a second; 0 when nothing is recorded)."""
    said = f"{size(free)} free"
    if free < low:
        yield wrong("space", said, f"below storage.low_space_bytes ({size(low)}) rows are not written: make room")
        return
    if not rate:
        yield ok("space", said)
        return
    days = (free - low) / rate / SECOND_S
    said += f", {days:.3g} days at the present {size(rate)} a second"
    yield ok("space", said) if days >= 7 else advise("space", said, "make room, or record less")


# ---- what is recorded -----------------------------------------------------------------------------------------------


def _recorded(data_dir: Path, running: bool, clock: Clock) -> Iterator[Finding]:
    from scidaq.catalog import Fact, read_facts
    from scidaq.store import DURABLE_MAP, STARTED, STOPPED, read_marks

    if not (data_dir / "station.json").exists():
        yield ok("recorded", "nothing yet")
        return
    last: Fact | None = None
    for fact in read_facts(data_dir / "facts"):
        if isinstance(fact, Fact) and fact.kind in (STARTED, STOPPED):
            last = fact
    if last is not None:
        yield from judge_last(last.kind == STOPPED, last.t_ns, int(last.data.get("quarantined", 0)), running)
    marks = read_marks(data_dir / DURABLE_MAP)
    newest = max((mark.last_ns for mark in marks.values()), default=0)
    if newest - clock.now_ns() > STEP_NS:
        yield wrong(
            "clock", f"rows of {shown(newest)} are recorded, which is in the future", "set this machine's clock"
        )


def judge_last(stopped: bool, t_ns: int, quarantined: int, running: bool) -> Iterator[Finding]:
    """How the station ended when it last did."""
    when = shown(t_ns)
    if stopped or running:
        yield ok("recorded", f"the station {'was stopped cleanly' if stopped else 'was started'} at {when}")
    else:
        what = f"the station that was started at {when} was not stopped cleanly"
        yield advise("recorded", what, "the next start recovers everything durable; look at why: power, kill, memory?")
    if quarantined:
        yield advise("recorded", f"that start set {quarantined} files aside", "`scidaq verify` says what they are")


def _quarantine(data_dir: Path) -> Iterator[Finding]:
    from scidaq.store import quarantined

    held = quarantined(data_dir)
    if held:
        yield advise("quarantine", f"holds {len(held)} things that could not be trusted", "`scidaq verify` lists them")
    else:
        yield ok("quarantine", "empty")


# ---- a station that runs --------------------------------------------------------------------------------------------


def _station(data_dir: Path) -> Iterator[Finding]:
    """What the station itself says, over its control socket."""
    from scidaq.web import connect_control

    control = connect_control(data_dir)
    if control is None:
        what = "runs, and cannot be asked: there is no control socket that answers"
        yield advise("station", what, "a script records there, or it starts or stops; else look at its log")
        return
    status = control.call("GET", "/api/v1/status", timeout_s=ASK_S)
    stats = control.call("GET", "/api/v1/stats", timeout_s=ASK_S)
    yield from judge_station(status, stats)
    yield from judge_health(control.call("GET", "/health", timeout_s=BOUND_S, also=(503,)))


def judge_station(status: Mapping[str, Any], stats: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether it records, as which version, and what it has lost since its start."""
    streams = stats["recorder"]["streams"]
    rows, durable, lost = (sum(s[name] for s in streams) for name in ("rows", "durable_rows", "gap_rows"))
    since = f"process {status['process']}, since {shown(status['started_ns'])}"
    said = f"{since}: {len(streams)} streams, {rows} rows, {durable} durable, {lost} in gaps in their present epochs"
    if not status["ready"]:
        yield wrong("station", f"takes no data: {status['why_not']}")
    yield ok("station", said)
    if status["version"] != __version__:
        yield advise("station", f"is scidaq {status['version']}, this is {__version__}", "restart it to use this one")


def judge_health(report: Mapping[str, Any]) -> Iterator[Finding]:
    """What is not well, by its own account, and instruments that are."""
    grades = {"unhealthy": wrong, "degraded": advise}
    for name, one in report["components"].items():
        if (grade := grades.get(one["status"])) is not None:
            since = f", since {one['since']}" if one.get("since") else ""
            yield grade(name, f"is {one['status']}: {one.get('reason') or 'no reason is known'}{since}")
        elif name.startswith("instrument:"):
            yield ok(name, "is well, says the station")


# ---- the machine ----------------------------------------------------------------------------------------------------


def _ports(config: Config, running: bool) -> Iterator[Finding]:
    station = _process_of(config.station.data_dir) if running else None
    for name, host, port in endpoints(config):
        yield from judge_port(name, port, port_in_use(host, port), owner_of(port), running, station)


def _process_of(data_dir: Path) -> int | None:
    """The number of the process of the station that runs; None where it does not say."""
    from scidaq.web import connect_control

    control = connect_control(data_dir)
    return None if control is None else int(control.call("GET", "/api/v1/status", timeout_s=ASK_S)["process"])


def judge_port(
    name: str, port: int, busy: bool, owner: Owner | None, running: bool, station: int | None
) -> Iterator[Finding]:
    """Whether the station has its port, or could have it."""
    subject, by = f"port {port}", f" by {owner}" if owner is not None else ""
    strange = owner is not None and station is not None and station not in (owner.process, *owner.parents)
    if busy and (not running or strange):
        whose = f"{name} cannot have it" if not running else f"the station has not got it for {name}"
        yield wrong(subject, f"{whose}: it is in use{by}", f"end that, or set {name} to another")
    elif busy:
        sure = owner is not None and station is not None
        yield ok(subject, f"the station has it ({name})" if sure else f"in use, as it should be ({name})")
    elif running and station is not None:
        yield advise(subject, f"the station does not listen there ({name})", "it took another, or needs a restart")
    else:
        yield ok(subject, f"free ({name})")


def endpoints(config: Config) -> Iterator[tuple[str, str, int]]:
    """The ports that the station would open: key, address, port."""
    for section in ("server", "flight"):
        options: Any = getattr(config, section, None)
        port = getattr(options, "port", 0)
        if port and getattr(options, "enabled", True):
            yield f"{section}.port", str(getattr(options, "bind_address", "127.0.0.1")), port


def port_in_use(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


@dataclass(frozen=True, slots=True)
class Owner:
    """A program that listens."""

    program: str
    process: int
    parents: tuple[int, ...] = ()
    """The processes that began it, and those that began them: a station has helpers."""

    def __str__(self) -> str:
        return f"{self.program} (process {self.process})"


def owner_of(port: int) -> Owner | None:
    """Who listens at a port; None for nobody, and where the system does not say."""
    import psutil

    try:
        for one in psutil.net_connections("tcp"):
            if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN and one.pid:
                found = psutil.Process(one.pid)
                return Owner(found.name(), one.pid, tuple(parent.pid for parent in found.parents()))
    except psutil.Error:
        pass  # another user's, most likely
    return None


def _memory(config: Config) -> Iterator[Finding]:
    import psutil

    limit = cgroup_limit(Path("/sys/fs/cgroup/memory.max"))
    total = psutil.virtual_memory().total
    allowed = min(total, limit) if limit is not None else total
    wanted = config.pipeline.ring_bytes * max(1, len(config.instruments))
    yield from judge_memory(allowed, wanted, of_cgroup=limit is not None and limit < total)


def cgroup_limit(file: Path) -> int | None:
    """What a control group allows; None where it sets no limit."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def judge_memory(allowed: int, wanted: int, *, of_cgroup: bool) -> Iterator[Finding]:
    """Whether the rings fit, if every instrument had one stream that filled its own."""
    said = f"{size(allowed)} {'allowed by the control group' if of_cgroup else 'in the machine'}"
    if wanted > allowed // 2:
        needed = f"{said}, while rings may take {size(wanted)} when the disk is slow"
        yield advise("memory", needed, "lower pipeline.ring_bytes: a process that is killed loses what was not durable")
    else:
        yield ok("memory", said)


class _Timex(ctypes.Structure):
    """The beginning of `struct timex` (adjtimex(2)), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def _clock() -> Iterator[Finding]:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        yield advise("clock", "this system has no clock that goes on in suspend", "do not let it sleep while recording")
    if platform.system() != "Linux":
        return
    seen = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(seen)) < 0:
        yield advise("clock", f"whether it is synchronised cannot be told: {os.strerror(ctypes.get_errno())}")
        return
    yield from judge_clock(synchronised=not seen.status & 0x40, max_error_us=seen.maxerror)


def judge_clock(*, synchronised: bool, max_error_us: int) -> Iterator[Finding]:
    """Whether the wall clock is right: STA_UNSYNC and the kernel's bound of its error."""
    if synchronised:
        yield ok("clock", f"synchronised, within {max_error_us / 1000:.3g} ms by the kernel's own estimate")
    else:
        yield advise("clock", "not synchronised", "run chrony or systemd-timesyncd; times of rows drift otherwise")


def _limits() -> Iterator[Finding]:
    import resource

    yield from judge_limits(resource.getrlimit(resource.RLIMIT_NOFILE)[1], resource.getrlimit(resource.RLIMIT_FSIZE)[0])


def judge_limits(files: int, file_bytes: int) -> Iterator[Finding]:
    """How many files may be open (the station takes all it may have), and how large one may be; -1 is no limit."""
    if 0 <= files < FEW_FILES:
        yield advise(
            "limits", f"{files} open files", "raise LimitNOFILE of the service, or `ulimit -n`: a stream takes two"
        )
    else:
        yield ok("limits", f"{'any number of' if files < 0 else files} open files")
    if file_bytes >= 0:
        yield wrong("limits", f"no file may be larger than {size(file_bytes)}", "lift `ulimit -f`")


def _processor() -> Iterator[Finding]:
    governors = {
        file.read_text().strip() for file in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    }
    drivers = {
        file.read_text().strip() for file in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_driver")
    }
    yield from judge_processor(os.cpu_count() or 1, governors, drivers)


def judge_processor(count: int, governors: set[str], drivers: set[str]) -> Iterator[Finding]:
    """Whether the processor runs as fast as it can when it is asked to."""
    slow = governors & {"powersave", "conservative"} if not drivers & {"intel_pstate", "amd-pstate-epp"} else set()
    said = f"{count} processors" + (f", governor {', '.join(sorted(governors))}" if governors else "")
    if slow:
        yield advise("processor", said, "`cpupower frequency-set -g performance` spares rows of fast instruments")
    elif count < 2:
        yield advise("processor", said, "recording and everything else take turns on one processor")
    else:
        yield ok("processor", said)


def _versions() -> Iterator[Finding]:
    yield ok(
        "versions",
        f"scidaq {__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}",
    )
    try:
        wanted = metadata.requires("scidaq") or []
    except metadata.PackageNotFoundError:
        return
    for requirement in wanted:
        if "extra ==" in requirement or (found := re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", requirement)) is None:
            continue
        try:
            yield from judge_version(found[1], metadata.version(found[1]), found[2])
        except metadata.PackageNotFoundError:
            yield wrong("versions", f"{found[1]} is not installed", "install scidaq again")


def judge_version(name: str, there: str, floor: str) -> Iterator[Finding]:
    """Whether a library is as new as it has to be."""

    def numbers(version: str) -> list[int]:
        return [int(n) for n in re.findall(r"\d+", version)[:3]]

    if numbers(there) < numbers(floor):
        yield wrong("versions", f"{name} {there} is older than {floor}", f"pip install '{name}>={floor}'")


# ---- instruments ----------------------------------------------------------------------------------------------------


def _instruments(config: Config, clock: Clock, offline: bool, running: bool) -> Iterator[Finding]:
    if running:
        return  # the station talks to them, and says how they are
    if offline:
        yield ok("instruments", f"{len(config.instruments)}, not asked: as you wished")
        return
    for one in ask(config, clock, ASK_S):
        if one.fine:
            yield ok(one.subject, one.message)
        else:
            yield wrong(one.subject, one.message, "look at its power, its cable and its address")


# ---- the answer -----------------------------------------------------------------------------------------------------


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """For programs."""
    return {
        "ok": not any(one.grade is Grade.WRONG for one in findings),
        "findings": [
            {"grade": one.grade.value.lower(), "subject": one.subject, "message": one.message, "advice": one.advice}
            for one in findings
        ],
    }

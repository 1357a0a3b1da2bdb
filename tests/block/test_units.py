"""Units are spelled in UCUM; who spells them otherwise is told what to write."""

from __future__ import annotations

import pytest

from scidaq.block import unit_problem

VALID = """
1 % m s g rad K C cd V mV uV kV A nA pA Ohm kOhm MOhm S mS F pF H uH Wb T mT G Hz kHz MHz GHz N Pa kPa hPa bar mbar W mW
J keV eV MeV u mol mmol Cel mCel deg ' '' gon sr lm lx Bq MBq Ci Gy Sv kat l L mL uL min h d wk a mo t kg mg ug ng
m/s m/s2 kg.m/s2 kg.m2/s3 W/m2 W/(m2.sr) W/m2/sr J/(kg.K) V.s N.m Pa.s A.h mA.h kW.h /min /s 1/s s-1 m-1 m+2
10*3/uL 10^6 10*-3 10^-7 {count} {count}/s {rev}/min mg/dL{total} m{red} dB B[V] dB[V] B[10.nV] dB[SPL] Np
[in_i] [ft_i] [mi_i] [lb_av] [psi] [degF] [degR] [pH] [ppm] [ppb] [ppth] [g] [c] [h] [k] [e] [eps_0] [mu_0] [m_e] [m_p]
mm[Hg] cm[H2O] m[H2O] [in_i'Hg] [in_i'H2O] [gal_us] [HP] [Btu] [Btu_th] [Btu_IT] [Btu_39] [Btu_m] cal kcal cal_th cal_IT
cal_m cal_[15] cal_[20] [Cal] Ao b [ly] k[ly] gf kgf [lbf_av] dyn erg P cP St cSt Oe Mx Gb AU pc atm att st
ar har Gal mGal R mR RAD REM mREM By kBy MiBy GiBy bit kbit Mibit Bd osm mosm eq meq U mU [iU] [IU] k[IU] [arb'U]
[m/s2/Hz^(1/2)] %[slope] [diop] [p'diop] [degRe] [lne] [pt_us] [NTU] [FNU] [drp] ng/(24.h) (m/s)
mol/(L.s) 4.[pi].10*-7.N/A2 [pi].rad/min 2.54.cm 100 g.m2 circ sph tex [den]
""".split()  # fmt: skip


@pytest.mark.parametrize("unit", VALID)
def test_units_of_the_specification_pass(unit: str) -> None:
    # 2.54 is no number of UCUM: a dot multiplies, so this is two times fifty-four centimetres, and valid all the same.
    assert unit_problem(unit) is None


@pytest.mark.parametrize(
    "unit",
    [
        *[
            "",
            " ",
            "m ",
            " m",
            "m s",
            "m*s",
            "m//s",
            "m/",
            ".m",
            "m.",
            "m..s",
            "m**2",
            "m^2",
            "m s-1",
            "kk",
            "kkg",
            "xyz",
        ],
        *[
            "volt",
            "V ",
            "(m",
            "m)",
            "()",
            "m()",
            "{",
            "{x",
            "x}",
            "m{",
            "m{}}",
            "[in",
            "in_i]",
            "m-",
            "m+-2",
            "m2-",
            "mb",
        ],
        *[
            "µm",
            "Ω",
            "°C",
            "°",
            "m²",
            "m·s",
            "m\n",
            "1e3",
            "-1",
            "+1",
            "1.5e",
            "µ",
            "2 m",
            "k",
            "da",
            "mmin",
            "kh",
            "m%",
        ],
        *["dB[mW]", "ly", "den", "barn", "lbf", "pa", "HZ", "k[in_i]", "(m/s)2", "[H2O]", "m[]"],
    ],
)
def test_what_is_no_unit_is_refused(unit: str) -> None:
    problem = unit_problem(unit)
    assert problem is not None
    assert repr(unit) in problem


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("°C", "Cel"),
        ("degC", "Cel"),
        ("C°", "Cel"),
        ("°F", "[degF]"),
        ("Ω", "Ohm"),
        ("ohm", "Ohm"),
        ("kohm", "kOhm"),
        ("volts", "V"),
        ("hz", "Hz"),
        ("HZ", "Hz"),
        ("mhz", "MHz"),
        ("sec", "s"),
        ("µV", "uV"),
        ("μV", "uV"),
        ("µs", "us"),
        ("µm", "um"),
        ("µA", "uA"),
        ("counts", "{count}"),
        ("percent", "%"),
        ("psi", "[psi]"),
        ("bytes", "By"),
        ("rpm", "{rev}/min"),
        ("", "1"),
        ("m^2", "m2"),
        ("m/s^2", "m/s2"),
        ("m²", "m2"),
        ("m*s", "m.s"),
        ("ppm", "[ppm]"),
        ("mmHg", "mm[Hg]"),
        ("Torr", "mm[Hg]"),
        ("torr", "mm[Hg]"),
    ],
)
def test_who_errs_as_many_do_is_told_what_to_write(wrong: str, right: str) -> None:
    problem = unit_problem(wrong)
    assert problem is not None
    assert f"did you mean {right!r}?" in problem


def test_every_hint_is_itself_a_unit() -> None:
    from scidaq.block import units

    assert [h for h in units._COMMON.values() if unit_problem(h)] == []

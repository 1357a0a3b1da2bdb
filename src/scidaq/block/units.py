"""Is this a unit? Units are written in UCUM, the Unified Code for Units of Measure (ucum.org), case-sensitive.

Only spelling is checked here, at once and without imports; conversion belongs to pint, at the edges. `1` is the
dimensionless unit; `{...}` is an annotation (`{count}/s`).

Source: The Unified Code for Units of Measure, version 2.1, §2 (grammar) and tables 1-23 (atoms).
"""

from __future__ import annotations

import difflib
import re
from functools import lru_cache

_PREFIXES = ("Y Z E P T G M k h da d c m u n p f a z y Ki Mi Gi Ti").split()
# Atoms that take metric prefixes, and those that do not.
_METRIC = frozenset(
    "m s g rad K C cd mol sr Hz N Pa J W A V F Ohm S Wb Cel T H lm lx Bq Gy Sv l L ar t bar u eV pc "
    "B Np B[SPL] B[V] B[mV] B[uV] B[10.nV] B[W] B[kW] bit By Bd kat U [iU] [IU] eq osm cal cal_[15] cal_[20] cal_[m] "
    "cal_[IT] cal_[th] st Ky Gal dyn erg P Bi St Mx G Oe Gb sb Lmb ph Ci R RAD REM [g] [c] [h] [k] [eps_0] [mu_0] [e] "
    "[m_e] [m_p] [G] m[H2O] m[Hg] g% mho tex [degRe] att".split()
)
_PLAIN = frozenset(
    "1 % [ppth] [ppm] [ppb] [pptr] [pi] gon deg ' '' min h d a_t a_j a_g a wk mo_s mo_j mo_g mo AU atm [lbf_av] "
    "gf lbf [ly] [in_i] [ft_i] [yd_i] [fth_i] [pc_i] [pca] [mi_i] [nmi_i] [kn_i] [sin_i] [sft_i] [mil_i] [acr_us] "
    "[in_us] [ft_us] [yd_us] [mi_us] [gal_us] [qt_us] [pt_us] [foz_us] [bbl_us] [gal_br] [oz_av] [lb_av] [gr] "
    "[ston_av] [lton_av] [oz_tr] [degF] [degR] [Btu] [Btu_IT] [Btu_th] [HP] [psi] [in_i'H2O] [in_i'Hg] circ sph [pH] "
    "10* 10^ bit_s [smoot] [Amb] [S] [car_m] [car_Au] [APL'U] [arb'U] [CFU] [PFU] [pnt] [pca_pr] [cicero]".split()
)
_COMPONENT = re.compile(
    r"(?P<atom>(?:\[[^\]]*\]|[^\d+\-./(){}\[\]]|10[*^]|'{1,2})*(?:\[[^\]]*\])?)(?P<exp>[+-]?\d+)?(?P<note>\{[\x21-\x7a|~]*\})?"
)
_COMMON = {"degC": "Cel", "C°": "Cel", "°C": "Cel", "Ohms": "Ohm", "ohm": "Ohm", "Ω": "Ohm", "sec": "s", "volt": "V",
           "volts": "V", "hz": "Hz", "byte": "By", "bytes": "By", "B/s": "By/s", "percent": "%", "K°": "K", "°": "deg",
           "amp": "A", "amps": "A", "counts": "{count}", "count": "{count}", "µV": "uV", "µA": "uA", "µm": "um",
           "µs": "us", "mbar.l": "mbar.L", "psi": "[psi]", "": "1", "degF": "[degF]", "°F": "[degF]",
           "rpm": "{rev}/min"}  # fmt: skip


def _atom_known(atom: str) -> bool:
    if atom in _METRIC or atom in _PLAIN:
        return True
    return any(atom.startswith(p) and atom[len(p):] in _METRIC for p in _PREFIXES)  # fmt: skip


def _parse(text: str) -> str | None:
    """None when `text` is a UCUM term, else what is wrong with it."""
    at, depth, expect = 0, 0, True
    while at < len(text):
        char = text[at]
        if expect and char == "/" and (at == 0 or text[at - 1] == "("):
            at += 1
        elif expect and char == "(":
            depth, at = depth + 1, at + 1
        elif not expect and char in "./":
            expect, at = True, at + 1
        elif not expect and char == ")" and depth:
            depth, at = depth - 1, at + 1
        elif expect:
            number = re.compile(r"\d+(?![*^\d])").match(text, at)
            if number:
                at, expect = number.end(), False
                continue
            found = _COMPONENT.match(text, at)
            if not found or found.end() == at:
                return f"unexpected {char!r} at character {at + 1}"
            atom, note = found["atom"], found["note"]
            if atom and not _atom_known(atom):
                return f"{atom!r} is no UCUM unit"
            if not atom and (found["exp"] or not note):
                return f"unexpected {char!r} at character {at + 1}"
            at, expect = found.end(), False
        else:
            return f"unexpected {char!r} at character {at + 1}"
    if expect:
        return "it ends where a unit is expected"
    return "a bracket is not closed" if depth else None


@lru_cache(maxsize=4096)
def unit_problem(text: str) -> str | None:
    """None when `text` is a unit, else a sentence that says what is wrong and, where it can, what was meant."""
    problem = _parse(text) if text.isascii() and text else "it is empty" if not text else "it is not plain ASCII"
    if problem is None:
        return None
    near = _COMMON.get(text)
    if near is None:
        folded = [u for u in (*_METRIC, *_PLAIN) if u.lower() == text.lower()]
        close = folded or difflib.get_close_matches(text, [*_METRIC, *_PLAIN], 1, 0.75)
        near = close[0] if close else None
    hint = f"; did you mean {near!r}?" if near else "; units are spelled in UCUM, for example V, mA, Cel, Ohm, m/s2, %"
    return f"{text!r} is not a unit: {problem}{hint}"

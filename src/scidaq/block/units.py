"""Is this a unit? Units are written in UCUM, the Unified Code for Units of Measure (ucum.org), case-sensitive.

Only spelling is checked here, at once and without imports; conversion belongs to pint, at the edges. `1` is the
dimensionless unit; `{...}` is an annotation (`{count}/s`).

Source: The Unified Code for Units of Measure, version 2.2, §2 (grammar) and tables 1-23 (atoms).
"""

from __future__ import annotations

import difflib
import re
from functools import lru_cache

_PREFIXES = ("Y Z E P T G M k h da d c m u n p f a z y Ki Mi Gi Ti").split()
# Atoms that take metric prefixes, and those that do not.
_METRIC = frozenset(
    "m s g rad K C cd mol sr Hz N Pa J W A V F Ohm S Wb Cel T H lm lx Bq Gy Sv kat l L ar t bar u eV pc "
    "Np B B[SPL] B[V] B[mV] B[uV] B[10.nV] B[W] B[kW] bit By Bd U [iU] [IU] eq osm g% mho tex st "
    "cal cal_[15] cal_[20] cal_m cal_IT cal_th Ky Gal dyn erg P Bi St Mx G Oe Gb sb Lmb ph Ci R RAD REM gf [ly] "
    "[c] [h] [k] [eps_0] [mu_0] [e] [m_e] [m_p] [G] [g] m[H2O] m[Hg]".split()
)
_PLAIN = frozenset(
    # dimensionless, angles, times, and others that the tables of other units hold
    "1 10* 10^ % [pi] [ppth] [ppm] [ppb] [pptr] gon deg ' '' circ sph min h d a_t a_j a_g a wk mo_s mo_j mo_g mo "
    "AU atm att [lbf_av] Ao b bit_s [pH] [S] [car_m] [car_Au] [smoot] [m/s2/Hz^(1/2)] [mesh_i] [Ch] [den] "
    # lengths, areas, volumes
    "[in_i] [ft_i] [yd_i] [fth_i] [mi_i] [nmi_i] [kn_i] [sin_i] [sft_i] [syd_i] [cin_i] [cft_i] [cyd_i] [cml_i] "
    "[mil_i] [bf_i] [cr_i] [hd_i] [in_us] [ft_us] [yd_us] [mi_us] [rd_us] [ch_us] [lk_us] [rch_us] [rlk_us] [fth_us] "
    "[fur_us] [mil_us] [acr_us] [srd_us] [smi_us] [sct] [twp] [in_br] [ft_br] [yd_br] [mi_br] [rd_br] [ch_br] [lk_br] "
    "[fth_br] [pc_br] [nmi_br] [kn_br] [acr_br] [gal_us] [qt_us] [pt_us] [gil_us] [foz_us] [fdr_us] [min_us] [bbl_us] "
    "[bu_us] [gal_wi] [pk_us] [dqt_us] [dpt_us] [crd_us] [tbs_us] [tsp_us] [cup_us] [foz_m] [cup_m] [tsp_m] [tbs_m] "
    "[gal_br] [pk_br] [bu_br] [qt_br] [pt_br] [gil_br] [foz_br] [fdr_br] [min_br] "
    # masses, heat, pressure
    "[gr] [lb_av] [oz_av] [dr_av] [scwt_av] [lcwt_av] [ston_av] [lton_av] [stone_av] [pwt_tr] [oz_tr] [lb_tr] [sc_ap] "
    "[dr_ap] [oz_ap] [lb_ap] [oz_m] [degF] [degR] [degRe] [Btu] [Btu_39] [Btu_59] [Btu_60] [Btu_m] [Btu_IT] [Btu_th] "
    "[Cal] [HP] [psi] [in_i'H2O] [in_i'Hg] "
    # print, optics, medicine
    "[lne] [pnt] [pca] [pnt_pr] [pca_pr] [pied] [pouce] [ligne] [didot] [cicero] [diop] [p'diop] %[slope] [PRU] "
    "[wood'U] [drp] [MET] [hp'_X] [hp'_C] [hp'_M] [hp'_Q] [hp_X] [hp_C] [hp_M] [hp_Q] [kp_X] [kp_C] [kp_M] [kp_Q] "
    "[HPF] [LPF] [arb'U] [USP'U] [GPL'U] [MPL'U] [APL'U] [beth'U] [anti'Xa'U] [todd'U] [dye'U] [smgy'U] [bdsk'U] "
    "[ka'U] [knk'U] [mclg'U] [tb'U] [hnsf'U] [CCID_50] [TCID_50] [EID_50] [PFU] [FFU] [CFU] [IR] [BAU] [AU] "
    "[Amb'a'1'U] [PNU] [Lf] [D'ag'U] [FEU] [ELU] [EU] [NTU] [FNU]".split()
)
_COMPONENT = re.compile(
    r"(?P<atom>(?:\[[^\]]*\]|[^\d+\-./(){}\[\]]|10[*^]|'{1,2})*(?:\[[^\]]*\])?)(?P<exp>[+-]?\d+)?(?P<note>\{[\x21-\x7a|~]*\})?"
)
_COMMON = {"degC": "Cel", "C°": "Cel", "°C": "Cel", "Ohms": "Ohm", "ohm": "Ohm", "sec": "s", "volt": "V",
           "volts": "V", "hz": "Hz", "mhz": "MHz", "byte": "By", "bytes": "By", "percent": "%", "K°": "K", "°": "deg",
           "amp": "A", "amps": "A", "counts": "{count}", "count": "{count}", "psi": "[psi]", "": "1", "degF": "[degF]",
           "°F": "[degF]", "rpm": "{rev}/min", "mmHg": "mm[Hg]", "Torr": "mm[Hg]", "torr": "mm[Hg]", "lbf": "[lbf_av]",
           "ppm": "[ppm]", "ppb": "[ppb]", "Å": "Ao", "barn": "b"}  # fmt: skip
_SIGNS = {"°C": "Cel", "Ω": "Ohm", "\u2126": "Ohm", "µ": "u", "μ": "u", "²": "2", "³": "3", "·": ".",
          "⋅": ".", "*": ".", " ": ".", "^": "", "⁻": "-", "¹": "1", "−": "-"}  # fmt: skip


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


def _respelled(text: str) -> str | None:
    """The same with UCUM's signs for those of print and of programming, when that is a unit."""
    for sign, ours in _SIGNS.items():
        text = text.replace(sign, ours)
    return text if text.isascii() and text and _parse(text) is None else None


def _alike(text: str) -> str | None:
    """The unit that differs in its capitals only, else the one that looks most like it."""
    known = sorted(_METRIC | _PLAIN)
    folded = [
        p + u for p in ("", *_PREFIXES) for u in known if (p + u).lower() == text.lower() and (not p or u in _METRIC)
    ]
    close = folded or difflib.get_close_matches(text, known, 1, 0.75)
    return close[0] if close else None


@lru_cache(maxsize=4096)
def unit_problem(text: str) -> str | None:
    """None when `text` is a unit, else a sentence that says what is wrong and, where it can, what was meant."""
    problem = _parse(text) if text.isascii() and text else "it is empty" if not text else "it is not plain ASCII"
    if problem is None:
        return None
    near = _COMMON.get(text) or _respelled(text) or _alike(text)
    hint = f"; did you mean {near!r}?" if near else "; units are spelled in UCUM, for example V, mA, Cel, Ohm, m/s2, %"
    return f"{text!r} is not a unit: {problem}{hint}"

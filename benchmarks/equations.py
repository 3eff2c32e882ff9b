"""Equations for `formulas.py`: 27 of the Feynman lectures and 36 of other textbooks, with the ranges of their columns.

The first are the dimensionless ones of the KAN paper (Liu et al., 2024, table 2). The others are in the units and
ranges in which a practitioner would tabulate them: constants of nature are inside, and columns that span decades are
spaced evenly in their logarithm. They were chosen before any program had seen them and are not changed for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import sympy
import torch
from torch import Tensor

from kansformer.kan import create_dataset
from kansformer.kan.data import Dataset

ONE, TURN, ANGLE = (0.0, 1.0), (0.0, 2 * math.pi), (0.0, math.pi)


@dataclass(frozen=True)
class Column:
    """An input: its name, its range, and whether its samples are spaced evenly in the logarithm."""

    name: str
    lower: float
    upper: float
    logarithmic: bool = False


@dataclass(frozen=True)
class Equation:
    """A function of columns.

    Args:
        number: a short name, unique.
        field: of science or engineering.
        text: as a book prints it.
        formula: in sympy's syntax, with the columns' names.
        columns: its variables in order.
        function: the same in torch; None derives it from the formula.
    """

    number: str
    field: str
    text: str
    formula: str
    columns: tuple[Column, ...]
    function: Callable[..., Tensor] | None = None

    @cached_property
    def expression(self) -> sympy.Expr:
        """The formula with the symbols x_1, x_2, … for its columns, positive where their ranges are."""
        symbols = dict(zip((column.name for column in self.columns), self.symbols, strict=True))
        return sympy.sympify(self.formula, locals=symbols)

    @property
    def symbols(self) -> list[sympy.Symbol]:
        """Of the columns; positive where the range is, so that every engine's formula simplifies in the same way."""
        return [
            sympy.Symbol(f"x_{index + 1}", real=True, positive=True if column.lower >= 0 else None)
            for index, column in enumerate(self.columns)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """Values (N, 1) at samples (N, I)."""
        if self.function is not None:
            return self.function(*x.unbind(-1)).unsqueeze(-1)
        values = sympy.lambdify(self.symbols, self.expression, "numpy")(*x.numpy().T)
        return torch.from_numpy(np.asarray(values, dtype=np.float64)).unsqueeze(-1)

    def dataset(self, noise: float = 0.0, seed: int = 20_000) -> Dataset:
        """1,000 samples to train on and 1,000 to test on.

        Args:
            noise: standard deviation of what is added to the training targets, as a share of theirs.
            seed: of the noise; that of the points, 0, would make noise that depends on them.
        """
        logarithmic = torch.tensor([column.logarithmic for column in self.columns])
        ends = [(column.lower, column.upper) for column in self.columns]
        ranges = [
            tuple(math.log(end) for end in pair) if column.logarithmic else pair
            for column, pair in zip(self.columns, ends, strict=True)
        ]

        def spread(x: Tensor) -> Tensor:
            return torch.where(logarithmic, x.exp(), x) if logarithmic.any() else x

        data = create_dataset(lambda x: self(spread(x)), len(ranges), ranges=ranges)
        target = data.train_target
        if noise:
            generator = torch.Generator().manual_seed(seed)
            target = target + noise * target.std() * torch.randn(target.shape, generator=generator, dtype=target.dtype)
        return Dataset(spread(data.train_input), target, spread(data.test_input), data.test_target)


def _feynman(
    number: str,
    text: str,
    formula: str,
    names: str,
    function: Callable[..., Tensor],
    ranges: tuple[tuple[float, float], ...],
) -> Equation:
    columns = tuple(Column(name, *pair) for name, pair in zip(names.split(), ranges, strict=True))
    return Equation(number, "Feynman lectures", text, formula, columns, function)


def _textbook(number: str, field: str, text: str, formula: str, columns: str) -> Equation:
    """Columns are written as `name lower upper`, with a `log` behind, separated by semicolons."""
    parts = [column.split() for column in columns.split(";")]
    return Equation(
        number,
        field,
        text,
        formula,
        tuple(Column(name, float(lower), float(upper), bool(log)) for name, lower, upper, *log in parts),
    )


FEYNMAN = [
    _feynman(
        "I.6.2",
        "exp(-θ²/2σ²)/sqrt(2πσ²)",
        "exp(-theta**2/(2*sigma**2))/sqrt(2*pi*sigma**2)",
        "theta sigma",
        lambda t, s: torch.exp(-(t**2) / (2 * s**2)) / (2 * math.pi * s**2).sqrt(),
        ((-1.0, 1.0), (0.5, 2.0)),
    ),
    _feynman(
        "I.6.2b",
        "exp(-(θ-μ)²/2σ²)/sqrt(2πσ²)",
        "exp(-(theta - mu)**2/(2*sigma**2))/sqrt(2*pi*sigma**2)",
        "theta mu sigma",
        lambda t, m, s: torch.exp(-((t - m) ** 2) / (2 * s**2)) / (2 * math.pi * s**2).sqrt(),
        ((-1.0, 1.0), (-1.0, 1.0), (0.5, 2.0)),
    ),
    _feynman(
        "I.9.18",
        "a/((b-1)² + (c-d)² + (e-f)²)",
        "a/((b - 1)**2 + (c - d)**2 + (e - f)**2)",
        "a b c d e f",
        lambda a, b, c, d, e, f: a / ((b - 1) ** 2 + (c - d) ** 2 + (e - f) ** 2),
        (ONE, (2.0, 3.0), ONE, (1.0, 2.0), ONE, (1.0, 2.0)),
    ),
    _feynman("I.12.11", "1 + a sin θ", "1 + a*sin(theta)", "a theta", lambda a, t: 1 + a * torch.sin(t), (ONE, TURN)),
    _feynman("I.13.12", "a(1/b - 1)", "a*(1/b - 1)", "a b", lambda a, b: a * (1 / b - 1), (ONE, (0.5, 2.0))),
    _feynman(
        "I.15.3x",
        "(1 - a)/sqrt(1 - b²)",
        "(1 - a)/sqrt(1 - b**2)",
        "a b",
        lambda a, b: (1 - a) / (1 - b**2).sqrt(),
        (ONE, (0.0, 0.8)),
    ),
    _feynman("I.16.6", "(a + b)/(1 + ab)", "(a + b)/(1 + a*b)", "a b", lambda a, b: (a + b) / (1 + a * b), (ONE, ONE)),
    _feynman("I.18.4", "(1 + ab)/(1 + a)", "(1 + a*b)/(1 + a)", "a b", lambda a, b: (1 + a * b) / (1 + a), (ONE, ONE)),
    _feynman(
        "I.26.2",
        "arcsin(n sin θ)",
        "asin(n*sin(theta))",
        "n theta",
        lambda n, t: torch.asin(n * torch.sin(t)),
        ((0.0, 0.95), (0.0, 1.5)),
    ),
    _feynman("I.27.6", "1/(1 + ab)", "1/(1 + a*b)", "a b", lambda a, b: 1 / (1 + a * b), (ONE, ONE)),
    _feynman(
        "I.29.16",
        "sqrt(1 + a² - 2a cos(θ₁ - θ₂))",
        "sqrt(1 + a**2 - 2*a*cos(theta1 - theta2))",
        "a theta1 theta2",
        lambda a, s, t: (1 + a**2 - 2 * a * torch.cos(s - t)).sqrt(),
        ((0.0, 0.9), ANGLE, ANGLE),
    ),
    _feynman(
        "I.30.3",
        "sin²(nθ/2)/sin²(θ/2)",
        "sin(n*theta/2)**2/sin(theta/2)**2",
        "n theta",
        lambda n, t: torch.sin(n * t / 2) ** 2 / torch.sin(t / 2) ** 2,
        ((1.0, 3.0), (0.5, 2.0)),
    ),
    _feynman("I.30.5", "arcsin(a/n)", "asin(a/n)", "a n", lambda a, n: torch.asin(a / n), ((0.0, 0.95), (1.0, 2.0))),
    _feynman(
        "I.37.4",
        "1 + a + 2 sqrt(a) cos δ",
        "1 + a + 2*sqrt(a)*cos(delta)",
        "a delta",
        lambda a, d: 1 + a + 2 * a.sqrt() * torch.cos(d),
        ((0.1, 1.0), TURN),
    ),
    _feynman("I.40.1", "n exp(-a)", "n*exp(-a)", "n a", lambda n, a: n * torch.exp(-a), (ONE, (-1.0, 1.0))),
    _feynman("I.44.4", "n ln a", "n*log(a)", "n a", lambda n, a: n * torch.log(a), (ONE, (0.5, 3.0))),
    _feynman(
        "I.50.26",
        "cos a + α cos² a",
        "cos(a) + alpha*cos(a)**2",
        "a alpha",
        lambda a, b: torch.cos(a) + b * torch.cos(a) ** 2,
        (TURN, ONE),
    ),
    _feynman("II.2.42", "(a - 1)b", "(a - 1)*b", "a b", lambda a, b: (a - 1) * b, (ONE, ONE)),
    _feynman(
        "II.6.15a",
        "c sqrt(a² + b²)/4π",
        "c*sqrt(a**2 + b**2)/(4*pi)",
        "a b c",
        lambda a, b, c: c * (a**2 + b**2).sqrt() / (4 * math.pi),
        ((0.2, 1.0), (0.2, 1.0), ONE),
    ),
    _feynman(
        "II.11.7",
        "n(1 + a cos θ)",
        "n*(1 + a*cos(theta))",
        "n a theta",
        lambda n, a, t: n * (1 + a * torch.cos(t)),
        (ONE, ONE, TURN),
    ),
    _feynman(
        "II.11.27",
        "nα/(1 - nα/3)",
        "n*alpha/(1 - n*alpha/3)",
        "n alpha",
        lambda n, a: n * a / (1 - n * a / 3),
        (ONE, ONE),
    ),
    _feynman(
        "II.35.18",
        "n/(exp a + exp -a)",
        "n/(exp(a) + exp(-a))",
        "n a",
        lambda n, a: n / (torch.exp(a) + torch.exp(-a)),
        (ONE, (-1.0, 1.0)),
    ),
    _feynman("II.36.38", "a + αb", "a + alpha*b", "a alpha b", lambda a, c, b: a + c * b, (ONE, ONE, ONE)),
    _feynman("II.38.3", "a/b", "a/b", "a b", lambda a, b: a / b, (ONE, (0.5, 2.0))),
    _feynman(
        "III.9.52",
        "a sin²((b - c)/2)/((b - c)/2)²",
        "a*sin((b - c)/2)**2/((b - c)/2)**2",
        "a b c",
        lambda a, b, c: a * torch.sinc((b - c) / (2 * math.pi)) ** 2,
        (ONE, ANGLE, ANGLE),
    ),
    _feynman(
        "III.10.19",
        "sqrt(1 + a² + b²)",
        "sqrt(1 + a**2 + b**2)",
        "a b",
        lambda a, b: (1 + a**2 + b**2).sqrt(),
        (ONE, ONE),
    ),
    _feynman(
        "III.17.37",
        "β(1 + α cos θ)",
        "beta*(1 + alpha*cos(theta))",
        "beta alpha theta",
        lambda b, a, t: b * (1 + a * torch.cos(t)),
        (ONE, ONE, TURN),
    ),
]

TEXTBOOKS = [
    _textbook(
        "arrhenius",
        "chemistry",
        "k = A exp(-E/RT), s⁻¹; E in J/mol",
        "A*exp(-E/(8.314*T))",
        "A 1e9 1e11 log; E 5e4 8e4; T 300 500",
    ),
    _textbook(
        "planck",
        "physics",
        "B = 2hc²/λ⁵/(exp(hc/λkT) - 1), W/m²/sr/µm; λ in µm",
        "1.191043e8/lam**5/(exp(14387.77/(lam*T)) - 1)",
        "lam 0.3 3; T 1500 6000",
    ),
    _textbook(
        "van der waals",
        "chemistry",
        "p = RT/(V - b) - a/V², Pa; CO₂, V in m³/mol",
        "8.314*T/(V - 4.267e-5) - 0.364/V**2",
        "V 1e-4 1e-2 log; T 280 400",
    ),
    _textbook(
        "competitive inhibition",
        "biochemistry",
        "v = v_max S/(K_m (1 + I/K_i) + S), µmol/min; mM, K_i = 0.5",
        "vmax*S/(Km*(1 + I/0.5) + S)",
        "vmax 1 10; S 0.01 10 log; Km 0.05 1; I 0 5",
    ),
    _textbook(
        "hill",
        "pharmacology",
        "E = 100 cⁿ/(EC₅₀ⁿ + cⁿ), %; nM, EC₅₀ = 120",
        "100*c**n/(120**n + c**n)",
        "c 1 1e4 log; n 1 4",
    ),
    _textbook(
        "nernst",
        "physiology",
        "E = RT/F ln(c_out/c_in), mV; mM",
        "1000*8.314*T/96485*log(cout/cin)",
        "T 280 320; cout 1 500 log; cin 1 500 log",
    ),
    _textbook(
        "goldman",
        "physiology",
        "V = RT/F ln((K_o + P Na_o)/(K_i + P Na_i)), mV; P = 0.04, 37 °C",
        "26.73*log((Ko + 0.04*Nao)/(Ki + 0.04*Nai))",
        "Ko 2 20; Nao 100 160; Ki 80 160; Nai 5 30",
    ),
    _textbook(
        "antoine",
        "chemical engineering",
        "p = 10^(A - B/(C + T)), mmHg; water, T in °C",
        "10**(8.07131 - 1730.63/(233.426 + T))",
        "T 1 100",
    ),
    _textbook(
        "manning",
        "hydraulics",
        "Q = A R^(2/3) S^(1/2)/n, m³/s",
        "A*R**(2/3)*sqrt(S)/n",
        "A 1 50; R 0.3 3; S 1e-4 1e-2 log; n 0.012 0.05",
    ),
    _textbook(
        "stefan-boltzmann",
        "heat transfer",
        "q = εσ(T₁⁴ - T₂⁴), W/m²",
        "eps*5.670374e-8*(T1**4 - T2**4)",
        "eps 0.1 1; T1 400 1200; T2 280 320",
    ),
    _textbook(
        "tsiolkovsky",
        "aerospace",
        "Δv = I_sp g ln(m₀/m_f), m/s",
        "Isp*9.80665*log(m0/mf)",
        "Isp 250 450; m0 1e4 5e5 log; mf 1e3 9e3 log",
    ),
    _textbook(
        "doppler",
        "astronomy",
        "f = f₀ sqrt((1 + β)/(1 - β)), GHz",
        "f0*sqrt((1 + b)/(1 - b))",
        "f0 1 10; b -0.8 0.8",
    ),
    _textbook(
        "impedance",
        "electrical engineering",
        "|Z| = sqrt(R² + (2πfL - 1/(2πfC))²), Ω",
        "sqrt(R**2 + (2*pi*f*L - 1/(2*pi*f*C))**2)",
        "R 10 1000 log; L 1e-3 0.1 log; C 1e-8 1e-6 log; f 500 2e4 log",
    ),
    _textbook(
        "morse",
        "spectroscopy",
        "V = D (1 - exp(-a(r - r_e)))², eV; Å",
        "D*(1 - exp(-a*(r - re)))**2",
        "D 2 6; a 1.5 2.5; r 0.6 4; re 0.7 1.4",
    ),
    _textbook(
        "butler-volmer",
        "electrochemistry",
        "j = j₀(exp(αFη/RT) - exp(-(1 - α)Fη/RT)), A/m²; 25 °C",
        "j0*(exp(38.92*alpha*eta) - exp(-38.92*(1 - alpha)*eta))",
        "j0 0.01 10 log; alpha 0.3 0.7; eta -0.15 0.15",
    ),
    _textbook(
        "langmuir",
        "surface chemistry",
        "q = q_max K p/(1 + K p), mol/kg; bar",
        "qmax*K*p/(1 + K*p)",
        "qmax 1 8; K 0.01 10 log; p 0.01 100 log",
    ),
    _textbook(
        "logistic growth",
        "ecology",
        "N = K/(1 + (K/N₀ - 1) exp(-rt))",
        "K/(1 + (K/N0 - 1)*exp(-r*t))",
        "K 500 2000; N0 10 100; r 0.1 1; t 0 20",
    ),
    _textbook(
        "gaussian beam",
        "optics",
        "I = 2/(πw²) exp(-2r²/w²), w² = w₀² + (λz/πw₀)², mm⁻²; mm, λ = 1064 nm",
        "2/(pi*(w0**2 + (1.064e-3*z/(pi*w0))**2))*exp(-2*r**2/(w0**2 + (1.064e-3*z/(pi*w0))**2))",
        "r 0 2; z 0 10000; w0 0.3 1",
    ),
    _textbook(
        "compton",
        "nuclear physics",
        "E' = E/(1 + E/511 (1 - cos θ)), keV",
        "E/(1 + E/510.999*(1 - cos(theta)))",
        f"E 10 2000 log; theta 0 {math.pi}",
    ),
    _textbook(
        "cantilever",
        "civil engineering",
        "δ = F x²(3L - x)/6EI, mm; steel, I in cm⁴",
        "1000*F*x**2*(3*L - x)/(6*210e9*I*1e-8)",
        "F 100 5000; x 0 1; L 1 3; I 1 1000 log",
    ),
    _textbook(
        "damped oscillation",
        "mechanics",
        "x = A exp(-γt) cos ωt, mm",
        "A*exp(-g*t)*cos(w*t)",
        "A 10 100; g 0.1 0.5; w 2 6; t 0 5",
    ),
    _textbook(
        "swamee-jain",
        "hydraulics",
        "f = 0.25/log₁₀(ε/3.7D + 5.74/Re^0.9)²",
        "0.25/(log(e/3.7 + 5.74/Re**0.9)/log(10))**2",
        "e 1e-5 1e-2 log; Re 5e3 1e7 log",
    ),
    _textbook(
        "debye-hueckel",
        "chemistry",
        "γ = 10^(-0.509 z² sqrt(I)/(1 + 3.28 a sqrt(I))); z = 2, mol/l, a in nm",
        "10**(-0.509*4*sqrt(I)/(1 + 3.28*a*sqrt(I)))",
        "I 1e-4 0.5 log; a 0.3 0.9",
    ),
    _textbook(
        "dew point",
        "meteorology",
        "T_d = 243.04 g/(17.625 - g), g = ln(H/100) + 17.625 T/(243.04 + T), °C",
        "243.04*(log(H/100) + 17.625*T/(243.04 + T))/(17.625 - log(H/100) - 17.625*T/(243.04 + T))",
        "H 20 100; T 0 40",
    ),
    _textbook(
        "wind chill",
        "meteorology",
        "13.12 + 0.6215 T - 11.37 v^0.16 + 0.3965 T v^0.16, °C; km/h",
        "13.12 + 0.6215*T - 11.37*v**0.16 + 0.3965*T*v**0.16",
        "T -40 5; v 5 80",
    ),
    _textbook(
        "barometric",
        "atmospheric physics",
        "p = 1013.25 (1 - 0.0065 h/288.15)^5.255, hPa; m",
        "1013.25*(1 - 0.0065*h/288.15)**5.255",
        "h 0 11000",
    ),
    _textbook(
        "diode",
        "electronics",
        "I = I_s(exp(V/(n 25.85 mV)) - 1), mA",
        "Is*(exp(V/(n*0.02585)) - 1)",
        "Is 1e-9 1e-6 log; V 0 0.6; n 1.2 2",
    ),
    _textbook(
        "relativistic energy",
        "particle physics",
        "E = m(1/sqrt(1 - β²) - 1), MeV",
        "m*(1/sqrt(1 - b**2) - 1)",
        "m 0.5 1000 log; b 0.05 0.99",
    ),
    _textbook(
        "thin lens",
        "optics",
        "b = f g/(g - f), mm",
        "f*g/(g - f)",
        "f 20 200; g 300 5000 log",
    ),
    _textbook(
        "driven oscillator",
        "mechanics",
        "A = F/m/sqrt((ω₀² - ω²)² + γ²ω²), m",
        "F/m/sqrt((w0**2 - w**2)**2 + (g*w)**2)",
        "F 1 10; m 0.5 5; w0 3 8; w 1 10; g 0.2 2",
    ),
    _textbook(
        "great circle",
        "geodesy",
        "d = 6371 arccos(sin φ₁ sin φ₂ + cos φ₁ cos φ₂ cos Δλ), km",
        "6371*acos(sin(p1)*sin(p2) + cos(p1)*cos(p2)*cos(l))",
        "p1 -1.2 1.2; p2 -1.2 1.2; l 0.1 3",
    ),
    _textbook(
        "bateman",
        "pharmacokinetics",
        "C = D k_a/(V(k_a - k_e)) (exp(-k_e t) - exp(-k_a t)), mg/l; h",
        "D*ka/(V*(ka - ke))*(exp(-ke*t) - exp(-ka*t))",
        "D 50 500; ka 0.5 2; V 10 50; ke 0.05 0.3; t 0 24",
    ),
    _textbook(
        "mean temperature difference",
        "heat transfer",
        "(ΔT₁ - ΔT₂)/ln(ΔT₁/ΔT₂), K",
        "(d1 - d2)/log(d1/d2)",
        "d1 40 100; d2 5 35",
    ),
    _textbook(
        "bernoulli",
        "fluid mechanics",
        "p₂ = p₁ + ρ(v₁² - v₂²)/2 + ρg(h₁ - h₂), Pa",
        "p1 + rho*(v1**2 - v2**2)/2 + rho*9.81*(h1 - h2)",
        "p1 1e5 3e5; rho 800 1200; v1 0 5; v2 0 10; h1 0 10; h2 0 10",
    ),
    _textbook(
        "fresnel",
        "optics",
        "R_s = ((cos θ - sqrt(n² - sin²θ))/(cos θ + sqrt(n² - sin²θ)))²",
        "((cos(t) - sqrt(n**2 - sin(t)**2))/(cos(t) + sqrt(n**2 - sin(t)**2)))**2",
        "n 1.3 2.4; t 0 1.4",
    ),
    _textbook(
        "thermistor",
        "electronics",
        "T = 1/(1/298.15 + ln(R/10⁴)/3950) - 273.15, °C; Ω",
        "1/(1/298.15 + log(R/10000)/3950) - 273.15",
        "R 1e3 1e5 log",
    ),
]

EQUATIONS = [*FEYNMAN, *TEXTBOOKS]

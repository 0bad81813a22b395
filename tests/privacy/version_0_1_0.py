"""A journal and a checkpoint's ledger as version 0.1.0 wrote them, and what they cost then at δ = 1e-5."""

RUN_ID = "0123456789abcdef0123456789abcdef"
JOURNAL = """\
{"format":1,"run_id":"0123456789abcdef0123456789abcdef","sum":"83608dd45a8f19c5"}
{"seq":1,"event":{"kind":"sampled","rate":0.01,"releases":[1.0,10.0],"groups":\
{"Female":{"kind":"sampled","rate":0.01,"releases":[2.0,10.0]},"Male":{"kind":"sampled","rate":0.01,"releases":[1.0,10.0]}}},\
"times":3,"split":"train","sum":"d965408e8cb939de"}
{"seq":2,"event":{"kind":"sampled","rate":0.02,"releases":[1.5,"inf"]},"times":1,"split":"train","sum":"83217c18001ce055"}
{"seq":3,"note":"the noise seed was fixed (7): the noise can be computed and subtracted","sum":"937526d59918ee96"}
{"seq":4,"event":{"kind":"gaussian","noise_multiplier":50.0},"times":2,"split":"validation","sum":"d89683c131779dcc"}
"""
STATE = {
    "format": 1,
    "run_id": RUN_ID,
    "entries": [
        {
            "event": {
                "kind": "sampled",
                "rate": 0.01,
                "releases": [1.0, 10.0],
                "groups": {
                    "Female": {"kind": "sampled", "rate": 0.01, "releases": [2.0, 10.0]},
                    "Male": {"kind": "sampled", "rate": 0.01, "releases": [1.0, 10.0]},
                },
            },
            "times": 3,
            "split": "train",
        },
        {"event": {"kind": "sampled", "rate": 0.02, "releases": [1.5, "inf"]}, "times": 1, "split": "train"},
        {"event": {"kind": "gaussian", "noise_multiplier": 50.0}, "times": 2, "split": "validation"},
    ],
    "notes": ["the noise seed was fixed (7): the noise can be computed and subtracted"],
    "journal": {"entries": 4, "sum": "d89683c131779dcc"},
}
EPSILON = (0.2832859728582418, 0.28399538845103034, 0.28470512920806446)

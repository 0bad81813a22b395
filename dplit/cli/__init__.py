"""The command line: `dplit fit`, `dplit compare`, `dplit account`, and what turns a recipe into a trainer."""

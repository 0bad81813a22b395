"""`python -m dplit.clipping`: the table of clipping policies, in Markdown."""

from dplit.clipping.catalogue import markdown

if __name__ == "__main__":
    print(markdown(), end="")

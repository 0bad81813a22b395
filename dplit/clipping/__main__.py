"""`python -m dplit.clipping`: what every clipping policy does and costs, in Markdown."""

from dplit.clipping.catalogue import page

if __name__ == "__main__":
    print(page(), end="")

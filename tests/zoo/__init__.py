"""Model families as shipped, with tiny random weights: is the tape exact on each, or does it refuse by name?"""

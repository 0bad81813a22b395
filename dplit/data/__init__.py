"""Data modules with declared groups, one file for each data set; folders hold what data sets of one kind share."""

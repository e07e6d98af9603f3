"""One jobflow Maker a stage, and the documents that it returns."""

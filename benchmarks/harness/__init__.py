"""Work whose speed is measured, fair rounds of it, and the rows that come out."""

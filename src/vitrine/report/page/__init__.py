"""The files of a report: its template, style sheets and scripts, some of which the explorer uses too."""

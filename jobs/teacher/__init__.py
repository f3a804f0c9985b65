"""`luna teach`: have answers written and judged by a teacher."""

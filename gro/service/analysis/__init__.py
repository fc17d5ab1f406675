"""What a query log tells: who asked for what, how much of the catalogue each account saw, and who stands out."""

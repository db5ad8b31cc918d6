"""What may be claimed: which runs may be compared, how, and how sure the answer is."""

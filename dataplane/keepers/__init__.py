"""What keeps one thing of the host equal to what should be: one contract (base), one file each."""

"""What the CNI plugin reads and says, as flannel's has it. It starts for every pod: nothing beyond modules that are built in is imported."""

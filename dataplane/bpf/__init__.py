"""bpf(2): maps, programs and the assembler that writes them."""

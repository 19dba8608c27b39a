from dataplane.bpf.calls import Helper, redirecting


def test_the_program_redirects_to_the_device() -> None:
    """The bytes of struct bpf_insn as they stand in Linux Documentation/bpf/standardization/instruction-set.rst."""
    code = redirecting(Helper.redirect_neigh, 0x01020304)
    assert code[:8] == bytes([0xB7, 1, 0, 0, 4, 3, 2, 1])
    assert code[8:32] == b"".join(bytes([0xB7, register, 0, 0, 0, 0, 0, 0]) for register in (2, 3, 4))
    assert code[32:40] == bytes([0x85, 0, 0, 0, 152, 0, 0, 0])
    assert code[40:] == bytes([0x95, 0, 0, 0, 0, 0, 0, 0])

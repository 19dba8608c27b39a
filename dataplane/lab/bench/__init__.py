"""The path benchmarks: pods send to pods over our data plane, the kernel's vxlan and others, interleaved in one run."""

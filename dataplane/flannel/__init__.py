"""Every format that must be flannel's byte for byte, each with its source. Pure: nothing here opens, asks or waits."""

"""What a lake must survive: real processes, real power cuts, real full disks."""

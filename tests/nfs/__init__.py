"""A real kernel NFS server and two real kernel NFS clients, in User-Mode Linux."""

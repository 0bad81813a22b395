"""How much memory a device has, what a physical batch takes of it, and what the allocator keeps."""

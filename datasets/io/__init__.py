"""Reading files of geometry and arrays, and downloading archives."""

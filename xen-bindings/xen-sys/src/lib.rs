//! Raw bindings to libxl, libxlutil and libxenstore

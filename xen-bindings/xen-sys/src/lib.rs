//! Raw bindings to libxl, libxlutil, libxenstore and the Xen tool logger, made by bindgen from the
//! headers that are installed.
//!
//! Nothing here is safe, and nothing here is meant for a program: use `xen-xl` for domains and
//! `xen-store` for xenstore.
//!
//! * Enums are modules of integer constants, because the library that is loaded may know values
//!   that the headers do not.
//! * libxl keeps its API from one Xen to the next, never its ABI: a binary works with the one
//!   `libxenlight.so.X.Y` it was built against.

#![allow(non_upper_case_globals, non_camel_case_types, non_snake_case)]
// bindgen's own output.
#![allow(clippy::all, rustdoc::all, unreachable_pub, unnecessary_transmutes)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

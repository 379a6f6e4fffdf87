//! Domains of a Xen host, safely: list, configuration, shutdown, death, creation

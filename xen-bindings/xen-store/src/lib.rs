//! xenstore, safely: values, permissions, transactions and watches, each with a deadline

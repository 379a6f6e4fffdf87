/*
 * What is bound. libxl_json.h is left out on purpose: it needs yajl's headers,
 * which libxen-dev does not bring, and the two conversions worth having are in
 * _libxl_types.h anyway.
 *
 * LIBXL_API_VERSION is set by build.rs.
 */
#include <libxl.h>
#include <libxl_event.h>
#include <libxl_utils.h>
#include <libxl_uuid.h>
#include <libxlutil.h>
#include <xenstore.h>
#include <xentoollog.h>

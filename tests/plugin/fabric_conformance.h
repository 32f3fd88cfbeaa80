/* The conformance suite of fabric plugins: its entry, and the tests of its other files. */
#ifndef TESTS_FABRIC_CONFORMANCE_H
#define TESTS_FABRIC_CONFORMANCE_H

#include <thrum/fabric_plugin.h>

/* Runs the suite on a plugin and one of its devices (NULL: the best). The number of tests that failed. */
int fabric_conformance(const char *plugin, const char *device);
/* The same on a table, which has every entry that is not optional. */
int fabric_conformance_run(const struct thrum_fabric_ops *ops, const char *device);

void dmabufs_are_registered_or_refused(void **state);
void bad_keys_and_ranges_fail_the_connection_only(void **state);
void stale_keys_are_refused(void **state);
void bad_arguments_are_refused_at_the_call(void **state);
void regions_have_a_limit_that_is_told(void **state);
void addresses_of_other_versions_are_refused(void **state);
void close_drops_work_in_flight(void **state);
void disconnect_drops_work_in_flight(void **state);
void stopped_peers_do_not_hold_up_disconnect(void **state);
void killed_peer_is_noticed(void **state);
void failed_connection_holds_up_no_other(void **state);
void dead_address_cannot_be_connected(void **state);

#endif

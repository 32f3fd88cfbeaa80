/* The conformance suite of fabric plugins is in two files; this one lists the tests of the second. */
#ifndef TESTS_FABRIC_CONFORMANCE_H
#define TESTS_FABRIC_CONFORMANCE_H

void bad_keys_and_ranges_fail_the_connection_only(void **state);
void stale_keys_are_refused(void **state);
void bad_arguments_are_refused_at_the_call(void **state);
void close_drops_work_in_flight(void **state);
void disconnect_drops_work_in_flight(void **state);
void killed_peer_is_noticed(void **state);
void dead_address_cannot_be_connected(void **state);

#endif

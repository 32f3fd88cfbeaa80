/* The conformance suite of device plugins: its entry, and the tests of its other files. */
#ifndef TESTS_DEVICE_CONFORMANCE_H
#define TESTS_DEVICE_CONFORMANCE_H

#include <thrum/device_plugin.h>

/* Runs the suite on a plugin and one of its devices (NULL: the first that nobody has). The number of tests that failed. */
int device_conformance(const char *plugin, const char *device);
/* The same on a table that the library has completed; index -1: the first that nobody has. */
int device_conformance_run(const struct thrum_device_ops *ops, int index);

void copies_and_fills_of_every_length(void **state);
void reductions_of_every_type_and_operation(void **state);
void commands_are_taken_in_two_parts(void **state);
void bad_commands_are_not_executed(void **state);
void bad_addresses_stop_their_queue_only(void **state);
void freed_memory_cannot_be_reached(void **state);
void cancelled_submissions_end_and_others_go_on(void **state);
void soft_resets_end_work_and_keep_memory(void **state);
void hard_resets_take_memory(void **state);
void a_device_is_of_one_process(void **state);
void peers_load_and_store(void **state);
void killed_peers_are_noticed(void **state);

#endif

/* All of the extension as one translation unit: torch's headers take longer to compile than what is ours. */
#include "lane.cpp"

#include "work.cpp"

#include "join.cpp"

#include "tensors.cpp"

#include "collectives.cpp"

#include "sparse.cpp"

#include "messages.cpp"

#include "process_group.cpp"

#include "module.cpp"

/*
 * collective, name, file (algo_<file>_build and _cost), flags, help. Included several times by algo.c.
 * Adding an algorithm: its file, a row here, a line in Makefile.inc, and the sweep of its test covers it.
 */
X(ALLREDUCE, "inline", allreduce_inline, ALGO_INLINE_ONLY | ALGO_ORDERED,
  "one shot: a line with the contribution to every peer, folded in rank order (NCCL's LL idea)")
X(ALLREDUCE, "direct", allreduce_direct, ALGO_NEEDS_PEER_ACCESS | ALGO_ORDERED | ALGO_LANES,
  "each rank folds its slice of every SEND and writes it to every RECV, in one pass")
X(ALLREDUCE, "recursive_doubling", allreduce_recursive_doubling, ALGO_IN_PAIRS,
  "log2(n) exchanges of everything (Thakur, Rabenseifner, Gropp 2005, section 4.5)")
X(ALLREDUCE, "ring", allreduce_ring, ALGO_TO_NEXT | ALGO_LANES,
  "reduce-scatter, then allgather, around a ring (Patarasuk, Yuan 2009)")
X(ALLREDUCE, "rabenseifner", allreduce_rabenseifner, ALGO_IN_PAIRS | ALGO_FAR_LONG,
  "recursive halving, then doubling (Thakur, Rabenseifner, Gropp 2005, section 4.5)")
X(ALLREDUCE, "double_tree", allreduce_double_tree, 0,
  "two binary trees, each with half of it, in pieces (Sanders, Speck, Traff 2009)")
X(ALLREDUCE, "chain", allreduce_chain, ALGO_ORDERED,
  "partial results along the ranks in order, results back, in pieces")
X(ALLREDUCE, "pairwise", allreduce_pairwise, ALGO_ORDERED,
  "each rank is put its slice by all, folds them and puts the result to all")
X(ALLREDUCE, "hosts", allreduce_hosts, ALGO_OF_HOSTS,
  "slices folded inside hosts, exchanged between them, spread inside; in pieces")
X(ALLREDUCE, "leaders", allreduce_leaders, ALGO_OF_HOSTS | ALGO_LEADERS,
  "lines to one rank of each host, between those, and back")
X(BROADCAST, "inline", broadcast_inline, ALGO_INLINE_ONLY | ALGO_TO_ROOT,
  "a line with the data to every peer")
X(BROADCAST, "direct", broadcast_direct, ALGO_TO_ROOT,
  "every rank reads the root's SEND; without peer access the root puts to every rank")
X(BROADCAST, "sliced", broadcast_sliced, ALGO_NEEDS_PEER_ACCESS,
  "each rank copies its slice of the root's SEND to every RECV")
X(BROADCAST, "binomial", broadcast_binomial, ALGO_IN_TREE,
  "binomial tree, the largest subtree first (Thakur, Rabenseifner, Gropp 2005, section 4.2)")
X(BROADCAST, "chain", broadcast_chain, 0, "from neighbour to neighbour, in pieces")
X(BROADCAST, "scatter_allgather", broadcast_scatter_allgather, 0,
  "a slice to each rank, each slice to all (Barnett, Gupta, Payne, Shuler, van de Geijn, Watts "
  "1994)")
X(BROADCAST, "hosts", broadcast_hosts, ALGO_OF_HOSTS,
  "slices down a tree or chain of hosts, each rank with one, spread inside; in pieces")
X(BROADCAST, "leaders", broadcast_leaders, ALGO_OF_HOSTS | ALGO_LEADERS | ALGO_TO_ROOT,
  "a line to one rank of each host, which hands it on")
X(ALLGATHER, "inline", allgather_inline, ALGO_INLINE_ONLY, "a line with the block to every peer")
X(ALLGATHER, "direct", allgather_direct, 0, "each rank writes its block to every RECV")
X(ALLGATHER, "ring", allgather_ring, ALGO_TO_NEXT, "blocks travel around a ring, n - 1 steps")
X(ALLGATHER, "bruck", allgather_bruck, ALGO_DOUBLING | ALGO_FAR_LONG,
  "ceil(log2(n)) steps of doubling size (Bruck, Ho, Kipnis, Upfal, Weathersby 1997)")
X(ALLGATHER, "recursive_doubling", allgather_recursive_doubling,
  ALGO_IN_PAIRS | ALGO_FAR_LONG | ALGO_POWER_OF_TWO,
  "log2(n) exchanges of all that is there (Thakur, Rabenseifner, Gropp 2005, section 4.1)")
X(ALLGATHER, "hosts", allgather_hosts, ALGO_OF_HOSTS,
  "a block to one rank of each host, which writes it to the others there; in pieces")
X(ALLGATHER, "leaders", allgather_leaders, ALGO_OF_HOSTS | ALGO_LEADERS,
  "lines to one rank of each host, between those, and back")
X(REDUCE_SCATTER, "inline", reduce_scatter_inline, ALGO_INLINE_ONLY | ALGO_ORDERED,
  "a line with its block to every peer, folded in rank order")
X(REDUCE_SCATTER, "direct", reduce_scatter_direct, ALGO_NEEDS_PEER_ACCESS | ALGO_ORDERED,
  "each rank folds its block of every SEND, in rank order")
X(REDUCE_SCATTER, "ring", reduce_scatter_ring, ALGO_TO_NEXT,
  "partial sums travel around a ring, n - 1 steps (Patarasuk, Yuan 2009)")
X(REDUCE_SCATTER, "recursive_halving", reduce_scatter_recursive_halving,
  ALGO_IN_PAIRS | ALGO_FAR_LONG,
  "log2(n) exchanges of halving size (Thakur, Rabenseifner, Gropp 2005, section 4.3)")
X(REDUCE_SCATTER, "pairwise", reduce_scatter_pairwise, ALGO_ORDERED,
  "each rank is put its block by all and folds them (Thakur, Rabenseifner, Gropp 2005, section "
  "4.3)")
X(REDUCE_SCATTER, "hosts", reduce_scatter_hosts, ALGO_OF_HOSTS,
  "blocks folded inside hosts, one partial result from each host; in pieces")
X(REDUCE_SCATTER, "leaders", reduce_scatter_leaders, ALGO_OF_HOSTS | ALGO_LEADERS,
  "lines to one rank of each host, between those, and back")
X(BARRIER, "inline", barrier_inline, 0, "an empty line to every peer")
X(BARRIER, "dissemination", barrier_dissemination, ALGO_DOUBLING,
  "ceil(log2(n)) rounds of lines at doubling distance (Hensgen, Finkel, Manber 1988)")
X(BARRIER, "leaders", barrier_leaders, ALGO_OF_HOSTS | ALGO_LEADERS,
  "lines to one rank of each host, between those, and back")
X(SENDRECV, "eager", sendrecv_eager, 0,
  "what fits a line goes in one at once, the rest by rendezvous")
X(SENDRECV, "rendezvous", sendrecv_rendezvous, 0,
  "the receiver says where its buffer is, the sender puts into it")
X(REDUCE, "inline", reduce_inline, ALGO_INLINE_ONLY | ALGO_ORDERED | ALGO_TO_ROOT,
  "a line with the contribution to the root, which folds them in rank order")
X(REDUCE, "direct", reduce_direct, ALGO_NEEDS_PEER_ACCESS | ALGO_ORDERED,
  "each rank folds its slice of every SEND and writes it to the root's RECV")
X(REDUCE, "binomial", reduce_binomial, 0,
  "binomial tree, in pieces (Thakur, Rabenseifner, Gropp 2005, section 4.6)")
X(REDUCE, "chain", reduce_chain, ALGO_ORDERED,
  "partial results along the ranks in order, then to the root, in pieces")
X(REDUCE, "hosts", reduce_hosts, ALGO_OF_HOSTS,
  "slices folded inside hosts, and at the root's host; in pieces")
X(REDUCE, "leaders", reduce_leaders, ALGO_OF_HOSTS | ALGO_LEADERS | ALGO_TO_ROOT,
  "lines to one rank of each host, which folds them, and from those to the root")
X(GATHER, "inline", gather_inline, ALGO_INLINE_ONLY | ALGO_TO_ROOT,
  "a line with the block to the root")
X(GATHER, "direct", gather_direct, ALGO_TO_ROOT, "each rank writes its block to the root's RECV")
X(GATHER, "binomial", gather_binomial, ALGO_IN_TREE | ALGO_FAR_LONG,
  "binomial tree of ranks in Knuth's order (Thakur, Rabenseifner, Gropp 2005, section 4.1)")
X(SCATTER, "inline", scatter_inline, ALGO_INLINE_ONLY | ALGO_TO_ROOT,
  "a line with its block to every peer")
X(SCATTER, "direct", scatter_direct, ALGO_TO_ROOT,
  "each rank reads its block of the root's SEND; without peer access the root puts to each")
X(SCATTER, "binomial", scatter_binomial, ALGO_IN_TREE | ALGO_FAR_LONG,
  "binomial tree of ranks in Knuth's order (Thakur, Rabenseifner, Gropp 2005, section 4.2)")
X(ALLTOALL, "inline", alltoall_inline, ALGO_INLINE_ONLY, "a line with its block to every peer")
X(ALLTOALL, "direct", alltoall_direct, ALGO_NEEDS_PEER_ACCESS,
  "each rank reads its block of every SEND, its right neighbour's first")
X(ALLTOALL, "pairwise", alltoall_pairwise, 0,
  "each rank puts its blocks, its right neighbour's first (Thakur, Rabenseifner, Gropp 2005)")
X(ALLTOALL, "bruck", alltoall_bruck, ALGO_DOUBLING,
  "log2(n) messages of n / 2 blocks (Bruck, Ho, Kipnis, Upfal, Weathersby 1997)")
X(ALLTOALL, "hosts", alltoall_hosts, ALGO_OF_HOSTS,
  "blocks of all ranks of a host for one rank collected there, and put at once")
X(ALLTOALL, "leaders", alltoall_leaders, ALGO_OF_HOSTS | ALGO_LEADERS,
  "lines to one rank of each host, between those, and back")
X(SCAN, "inline", scan_inline, ALGO_INLINE_ONLY | ALGO_ORDERED,
  "a line with the contribution to every rank behind, folded in rank order")
X(SCAN, "direct", scan_direct, ALGO_NEEDS_PEER_ACCESS | ALGO_ORDERED,
  "each rank computes its slice of every prefix and writes it to every RECV")
X(SCAN, "recursive_doubling", scan_recursive_doubling, ALGO_DOUBLING,
  "log2(n) exchanges of everything (Hillis, Steele 1986)")
X(SCAN, "chain", scan_chain, ALGO_ORDERED | ALGO_TO_NEXT,
  "the prefix travels along the ranks, in pieces")
X(EXSCAN, "inline", scan_inline, ALGO_INLINE_ONLY | ALGO_ORDERED,
  "a line with the contribution to every rank behind, folded in rank order")
X(EXSCAN, "direct", scan_direct, ALGO_NEEDS_PEER_ACCESS | ALGO_ORDERED,
  "each rank computes its slice of every prefix and writes it to every RECV")
X(EXSCAN, "recursive_doubling", scan_recursive_doubling, ALGO_DOUBLING,
  "log2(n) exchanges of everything (Hillis, Steele 1986)")
X(EXSCAN, "chain", scan_chain, ALGO_ORDERED | ALGO_TO_NEXT,
  "the prefix travels along the ranks, in pieces")

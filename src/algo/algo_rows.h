/*
 * collective, name, file (algo_<collective>_<file>_build and _cost), flags, help. Included several times by algo.c.
 * Adding an algorithm: its file, a row here, a line in Makefile.inc, and the sweep of its test covers it.
 */
X(ALLREDUCE, "inline", allreduce_inline, ALGO_INLINE_ONLY,
  "one shot: a line with the contribution to every peer, folded in rank order (NCCL's LL idea)")
X(ALLREDUCE, "direct", allreduce_direct, ALGO_NEEDS_PEER_ACCESS,
  "each rank folds its slice of every SEND and writes it to every RECV, in one pass")
X(ALLREDUCE, "pieces", allreduce_pieces, ALGO_NEEDS_PEER_ACCESS,
  "as direct, piece by piece, so that host memory is copied while others are folded")
X(ALLREDUCE, "recursive_doubling", allreduce_recursive_doubling, ALGO_COMMUTATIVE,
  "log2(n) exchanges of everything (Thakur, Rabenseifner, Gropp 2005, section 4.5)")
X(ALLREDUCE, "ring", allreduce_ring, ALGO_COMMUTATIVE,
  "reduce-scatter, then allgather, around a ring (Patarasuk, Yuan 2009)")
X(BROADCAST, "direct", broadcast_direct, 0,
  "every rank reads the root's SEND; without peer access the root puts to every rank")
X(BROADCAST, "binomial", broadcast_binomial, 0,
  "binomial tree, the largest subtree first (Thakur, Rabenseifner, Gropp 2005, section 4.2)")
X(ALLGATHER, "direct", allgather_direct, 0, "each rank writes its block to every RECV")
X(ALLGATHER, "ring", allgather_ring, 0, "blocks travel around a ring, n - 1 steps")
X(ALLGATHER, "bruck", allgather_bruck, 0,
  "ceil(log2(n)) steps of doubling size (Bruck, Ho, Kipnis, Upfal, Weathersby 1997)")
X(REDUCE_SCATTER, "direct", reduce_scatter_direct, ALGO_NEEDS_PEER_ACCESS,
  "each rank folds its block of every SEND, in rank order")
X(REDUCE_SCATTER, "ring", reduce_scatter_ring, ALGO_COMMUTATIVE,
  "partial sums travel around a ring, n - 1 steps (Patarasuk, Yuan 2009)")
X(REDUCE_SCATTER, "recursive_halving", reduce_scatter_recursive_halving, ALGO_COMMUTATIVE,
  "log2(n) exchanges of halving size (Thakur, Rabenseifner, Gropp 2005, section 4.3)")
X(BARRIER, "dissemination", barrier_dissemination, 0,
  "ceil(log2(n)) rounds of lines at doubling distance (Hensgen, Finkel, Manber 1988)")
X(SENDRECV, "rendezvous", sendrecv_rendezvous, 0,
  "the receiver says where its buffer is, the sender puts into it")

/* key, variable, type, default, min, max, unit or choices, help. Included several times by config.h and config.c. */
X(LOG, "THRUM_LOG", CONFIG_CHOICE, "warn", 0, 0, "error|warn|info|debug",
  "What is written to stderr, or to THRUM_LOG_FILE.")
X(LOG_FILE, "THRUM_LOG_FILE", CONFIG_STRING, "", 0, 0, "",
  "File to which the log is appended, instead of stderr; %h stands for the host, %p for the "
  "process.")
X(NCCL_DEBUG, "NCCL_DEBUG", CONFIG_STRING, "", 0, 0, "",
  "NCCL's: in programs of NCCL, what is logged where THRUM_LOG does not say it. version: one line; "
  "warn, info; trace: THRUM_LOG's debug.")
X(NCCL_DEBUG_FILE, "NCCL_DEBUG_FILE", CONFIG_STRING, "", 0, 0, "",
  "NCCL's: in programs of NCCL, the file of the log where THRUM_LOG_FILE does not say it.")
X(NCCL_COMM_ID, "NCCL_COMM_ID", CONFIG_STRING, "", 0, 0, "",
  "NCCL's: host:port of rank 0 where ranks meet whose id is not passed on. On several hosts they "
  "need THRUM_SECRET.")
X(DEADLINE_MS, "THRUM_DEADLINE_MS", CONFIG_INT, "300000", 10, 86400000, "ms",
  "Deadline of every operation; when it passes, the communicator fails and names the ranks that "
  "did not come.")
X(INIT_DEADLINE_MS, "THRUM_INIT_DEADLINE_MS", CONFIG_INT, "120000", 10, 86400000, "ms",
  "Deadline for all ranks to join a communicator.")
X(SCRATCH_BYTES, "THRUM_SCRATCH_BYTES", CONFIG_BYTES, "4M", 65536, 1099511627776, "bytes",
  "Device memory per communicator for algorithms that stage data.")
X(RAS, "THRUM_RAS", CONFIG_BOOL, "1", 0, 0, "",
  "thrum-ras and thrum-trace may ask this process for the state of its communicators; only "
  "programs of the same user and root's get an answer.")
X(TRACE, "THRUM_TRACE", CONFIG_STRING, "", 0, 0, "",
  "Folder, made if need be, in which every process records its operations, for thrum-trace: when "
  "each was called, began and ended. thrum-trace alone asks running processes, for which nothing "
  "need be set.")
X(LANES, "THRUM_LANES", CONFIG_INT, "1", 1, 4, "", "Lanes that a plan may use.")
X(REPRODUCIBLE, "THRUM_REPRODUCIBLE", CONFIG_BOOL, "0", 0, 0, "",
  "Reductions give the same bits whatever the message size, algorithm, lanes and hosts.")
X(ALGO, "THRUM_ALGO", CONFIG_STRING, "", 0, 0, "",
  "Forces algorithms: collective:algorithm, or collective:algorithm:sizes, comma-separated, such "
  "as allreduce:ring:64K-4M,broadcast:binomial. Sizes include both ends, either of which may be "
  "missing; of several that fit the last holds. With a question mark, as in reduce:inline?, only "
  "where the algorithm can serve the call.")
X(TUNE_FILE, "THRUM_TUNE_FILE", CONFIG_STRING, "", 0, 0, "",
  "Tuning file, which thrum-tune writes: what this machine takes, from which algorithms are "
  "chosen. Without it thrum/tune.json under XDG_CONFIG_HOME or ~/.config, if there is one. none: "
  "what is built in.")
X(TOPOLOGY_FILE, "THRUM_TOPOLOGY_FILE", CONFIG_STRING, "", 0, 0, "",
  "Hosts, their ports and ranks, as thrum-info --topology --json writes them, instead of what is "
  "found here: link speeds for the choice of algorithms, and for thrum-info --why and thrum-plan "
  "the hosts of the ranks.")
X(HOST_ID, "THRUM_HOST_ID", CONFIG_STRING, "", 0, 0, "",
  "Names this rank's host; ranks with different names count as being on different hosts, and reach "
  "each other through a fabric only.")
X(PEER_ACCESS, "THRUM_PEER_ACCESS", CONFIG_CHOICE, "auto", 0, 0, "auto|none",
  "none: never load or store a peer's memory; all data goes by PUT through a fabric plugin.")
X(FABRIC, "THRUM_FABRIC", CONFIG_STRING, "auto", 0, 0, "",
  "Fabric plugin to use where there is no peer access. auto: loopback if all ranks are on one "
  "host, "
  "else verbs if every rank has an active port in a network with a port of every other, else ofi "
  "if libfabric has a provider with RDMA on every rank or THRUM_OFI_* are set, else tcp.")
X(FABRIC_DEVICE, "THRUM_FABRIC_DEVICE", CONFIG_STRING, "", 0, 0, "",
  "Device or provider of the fabric plugin.")
X(OFI_PROVIDER, "THRUM_OFI_PROVIDER", CONFIG_STRING, "", 0, 0, "",
  "Provider of libfabric for the fabric ofi, such as tcp, shm or verbs; without it the best one "
  "that is found.")
X(OFI_INTERFACE, "THRUM_OFI_INTERFACE", CONFIG_STRING, "", 0, 0, "",
  "Network interface, libfabric domain or address that the fabric ofi uses; without it the first "
  "that can be reached from other hosts.")
X(OFI_ORDER, "THRUM_OFI_ORDER", CONFIG_CHOICE, "auto", 0, 0, "auto|wait",
  "How the fabric ofi keeps data before its signal. auto: by the provider's order of writes where "
  "it has one; wait: always by waiting until the data is at the peer, which is slower.")
X(TCP_INTERFACE, "THRUM_TCP_INTERFACE", CONFIG_STRING, "", 0, 0, "",
  "Network interfaces that the fabric tcp uses: names, addresses or subnets such as 10.0.0.0/8, "
  "comma-separated; without it all that are up, that of the default route first.")
X(TCP_TIMEOUT_MS, "THRUM_TCP_TIMEOUT_MS", CONFIG_INT, "20000", 0, 3600000, "ms",
  "How long the fabric tcp waits for an acknowledgement before a connection counts as broken; at "
  "most half of THRUM_DEADLINE_MS. 0: as long as the kernel does.")
X(TCP_BUFFER_BYTES, "THRUM_TCP_BUFFER_BYTES", CONFIG_INT, "0", 0, 1073741824, "bytes",
  "Socket buffers of the fabric tcp. 0: the kernel finds a size by itself.")
X(TCP_HOLD_US, "THRUM_TCP_HOLD_US", CONFIG_INT, "100", 0, 100000, "us",
  "How long the fabric tcp may hold small messages that are sent one right after the other, to "
  "send "
  "them together, where nobody waits meanwhile. 0: each goes at once.")
X(TCP_CONGESTION, "THRUM_TCP_CONGESTION", CONFIG_STRING, "auto", 0, 0, "",
  "Congestion control of the fabric tcp, such as cubic or bbr. auto: the kernel's, but instead of "
  "bbr, which slows down short exchanges, cubic or reno.")
X(VERBS_GID, "THRUM_VERBS_GID", CONFIG_STRING, "auto", 0, 0, "",
  "GID of a port that the fabric verbs uses: auto, ipv4, ipv6, or an index of its table. auto: "
  "IPv4 "
  "before IPv6, RoCE v2 only; link-local ones last.")
X(VERBS_MTU, "THRUM_VERBS_MTU", CONFIG_CHOICE, "auto", 0, 0, "auto|256|512|1024|2048|4096",
  "Largest packet of the fabric verbs. auto: what both ports have.")
X(VERBS_TRAFFIC_CLASS, "THRUM_VERBS_TRAFFIC_CLASS", CONFIG_INT, "0", 0, 255, "",
  "Traffic class of the fabric verbs: in RoCE the IP header's DSCP times 4, in InfiniBand the "
  "GRH's.")
X(VERBS_TIMEOUT, "THRUM_VERBS_TIMEOUT", CONFIG_INT, "16", 1, 31, "",
  "How long the fabric verbs waits for an acknowledgement: 4.096 us times 2 to this power, which "
  "adapters may stretch up to four times.")
X(VERBS_RETRY, "THRUM_VERBS_RETRY", CONFIG_INT, "7", 0, 7, "",
  "How often the fabric verbs sends again what is not acknowledged, before a lane counts as "
  "broken.")
X(VERBS_QPS, "THRUM_VERBS_QPS", CONFIG_INT, "1", 1, 4, "",
  "Queue pairs for each port of a connection of the fabric verbs.")
X(VERBS_STRIPE_BYTES, "THRUM_VERBS_STRIPE_BYTES", CONFIG_INT, "131072", 4096, 1073741824, "bytes",
  "Puts of at least this size go over all lanes of a connection of the fabric verbs.")
X(VERBS_RECOVERY_MS, "THRUM_VERBS_RECOVERY_MS", CONFIG_INT, "10000", 0, 3600000, "ms",
  "How long a connection of the fabric verbs that has something to send waits for a port to come "
  "back when none leads to the peer, before it fails; at most half of THRUM_DEADLINE_MS.")
X(LOOPBACK_RING_BYTES, "THRUM_LOOPBACK_RING_BYTES", CONFIG_BYTES, "256K", 16384, 67108864, "bytes",
  "Mailbox of each connection of the loopback fabric; rounded up to a power of two.")
X(PLUGIN_PATH, "THRUM_PLUGIN_PATH", CONFIG_STRING, "", 0, 0, "",
  "Directories, separated by colons, where plugins are looked for before the installed ones.")
X(DEVICE, "THRUM_DEVICE", CONFIG_STRING, "sim", 0, 0, "", "Device plugin to use.")
X(SIM_DEVICES, "THRUM_SIM_DEVICES", CONFIG_INT, "256", 1, 4096, "",
  "How many sim devices a host has, per user.")
X(CUDA_DEVICES, "THRUM_CUDA_DEVICES", CONFIG_INT, "8", 1, 4096, "",
  "How many devices a program over Thrum's libcudart.so sees.")
X(SIM_HBM_BYTES, "THRUM_SIM_HBM_BYTES", CONFIG_BYTES, "4G", 1048576, 1099511627776, "bytes",
  "Memory of a sim device; host memory is taken only as it is allocated.")
X(SIM_FAULTS, "THRUM_SIM_FAULTS", CONFIG_STRING, "", 0, 0, "",
  "Fault script of the sim devices: [device/]KIND@WHEN[:ARGUMENT], separated by ';'.")
X(SIM_SEED, "THRUM_SIM_SEED", CONFIG_INT, "1", 0, 9223372036854775807, "",
  "Seed of the fault script.")
X(SIM_KERNELS, "THRUM_SIM_KERNELS", CONFIG_CHOICE, "auto", 0, 0, "auto|scalar|avx2|avx512",
  "Instructions of the sim REDUCE engine.")
X(QUEUE_DEPTH, "THRUM_QUEUE_DEPTH", CONFIG_INT, "4096", 16, 1048576, "",
  "Ring slots (64 bytes each) of a queue. A full ring that stands still grows, up to 1048576 "
  "slots.")
X(SPIN_US, "THRUM_SPIN_US", CONFIG_INT, "-1", -1, 1000000, "us",
  "How long a waiter spins before it yields its core; -1: by the number of ranks and cores of the "
  "host.")
X(RANK, "THRUM_RANK", CONFIG_INT, "-1", -1, 1048575, "",
  "Rank of this process, where no launcher says it.")
X(SIZE, "THRUM_SIZE", CONFIG_INT, "-1", -1, 1048576, "",
  "Number of ranks, where no launcher says it.")
X(LOCAL_RANK, "THRUM_LOCAL_RANK", CONFIG_INT, "-1", -1, 1048575, "",
  "Rank among those of this host.")
X(ROOT, "THRUM_ROOT", CONFIG_STRING, "", 0, 0, "",
  "host:port of rank 0, where no launcher says it.")
X(SECRET, "THRUM_SECRET", CONFIG_STRING, "", 0, 0, "",
  "Shared secret of the job, at least 16 characters, where THRUM_ROOT, Slurm or torchrun start it "
  "on several hosts.")
X(BOOTSTRAP_INTERFACE, "THRUM_BOOTSTRAP_INTERFACE", CONFIG_STRING, "", 0, 0, "",
  "Network interface or address where ranks meet; without it the first that is up, or loopback.")
X(BOOTSTRAP_PORT, "THRUM_BOOTSTRAP_PORT", CONFIG_INT, "0", 0, 65535, "",
  "Port where ranks meet; 0: any free one.")
X(STAGE_BYTES, "THRUM_STAGE_BYTES", CONFIG_BYTES, "1G", 131072, 1099511627776, "bytes",
  "Most device memory that a communicator takes to stand for host buffers.")
X(MPI_TAKE, "THRUM_MPI_TAKE", CONFIG_STRING, "auto", 0, 0, "",
  "MPI collectives that libthrum-mpi takes. auto: those where it is faster, by a table and by "
  "trying both; table: without trying; try: also reductions of more than two ranks; all; none; or "
  "a list of function[:all|:none|:from-to], sizes in bytes, such as allreduce:4K-,bcast:none; with "
  "an i in front the nonblocking and persistent forms only. The same on all ranks.")
X(MPI_AFTER, "THRUM_MPI_AFTER", CONFIG_INT, "8", 0, 1000000, "",
  "Collectives on an MPI communicator before libthrum-mpi makes a Thrum communicator for it; but "
  "for the first one it puts that off while it would take more than a sixteenth of the time. 0: "
  "at once, whatever it takes. The same on all ranks.")
X(MPI_REPORT, "THRUM_MPI_REPORT", CONFIG_CHOICE, "0", 0, 0, "0|1|all",
  "What libthrum-mpi prints when MPI is finalized: which calls Thrum took, which MPI, and why. 1: "
  "of rank 0.")

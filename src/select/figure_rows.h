/*
 * name, default, least, most, unit, help: what the cost model knows of a machine. Included several times by select.h,
 * tuning.c, thrum-info and thrum-tune. The defaults are those of a virtual machine with two cores of a server; those of net_*
 * are of TCP, and select_use_adapters has others.
 */
X(call_us, 0.1, 0.001, 10000, "us", "a call that exchanges nothing: host and queue")
X(exchange_us, 0.3, 0.001, 100000, "us",
  "one exchange: until a rank sees what another, on its own core, has written for it")
X(message_us, 0.04, 0.0001, 10000, "us", "writing, or looking at, one more line or signal")
X(switch_us, 3, 0.001, 100000, "us",
  "the same exchange where ranks share a core, for each of them: its turn must come")
X(pass_gbps, 16, 0.001, 10000, "GB/s",
  "data that one rank writes and another reads, from cache to cache, both counted")
X(copy_gbps, 45, 0.001, 10000, "GB/s",
  "COPY, read and written, in the cache, of each rank while all of them work")
X(reduce_gbps, 50, 0.001, 10000, "GB/s", "the same of REDUCE")
X(copy_memory_gbps, 15, 0.001, 10000, "GB/s", "COPY beyond the cache")
X(reduce_memory_gbps, 18, 0.001, 10000, "GB/s", "REDUCE beyond the cache")
X(cache_bytes, 8388608, 4096, 1099511627776, "bytes",
  "what a rank may touch in one call before it counts as beyond the cache")
X(net_us, 15, 0.01, 1000000, "us",
  "one exchange between hosts: until a rank sees what one on another host has put for it")
X(net_message_us, 5, 0.001, 100000, "us", "putting, or taking, one more message between hosts")
X(net_gbps, 2, 0.001, 10000, "GB/s", "what one rank sends to other hosts while it receives as much")
X(port_gbps, 2.5, 0.001, 10000, "GB/s",
  "what all ranks of a host send; the speed of its ports, where that is known")
X(net_overlap, 0, 0, 1, "",
  "the part of such transfers that takes no time of a rank: 0 where the kernel copies, 1 where an "
  "adapter does")
X(put_us, 1.5, 0.001, 1000000, "us", "one exchange without peer access: a put through a fabric")
X(put_gbps, 12, 0.001, 10000, "GB/s", "the data of puts through a fabric, read and written")

// SPDX-License-Identifier: BSD-3-Clause
#include "comm/bootstrap/link_choice.h"

#include <utility>

#include "comm/hierarchical/link_trial.h"
#include "comm/hierarchical/mpi_reduction.h"
#include "comm/tcp/backend.h"

namespace lockstep {
namespace {

// Bytes that move while backward computes cost nothing as long as they take no longer than it. Only
// a link that is much faster, such as one of InfiniBand beside IP over it, makes up for that.
constexpr double kClearlyFaster = 2;
// What is slower than 16 Gbit/s may well be Ethernet, where MPI can do no more than TCP does.
constexpr double kFastFabric = 2e9;  // bytes per second
// A busy machine makes either of them slow at times, but hardly so often.
constexpr int kTrials = 3;

}  // namespace

bool is_mpi_faster(const LinkSpeed& mpi, const LinkSpeed& tcp) {
  return mpi.bytes_per_second >= kFastFabric &&
         mpi.bytes_per_second > kClearlyFaster * tcp.bytes_per_second;
}

std::string choose_link_beside_tcp(GroupContext& group, HostLink& link, const HostLayout& layout,
                                   bool may_be_mpi, const CompareLinks& compare) {
  auto& tcp = dynamic_cast<TcpBackend&>(*link.backend);
  LinkSpeed speed = measure_link(group, tcp, layout);
  tcp.set_link_speed(speed);
  // The variables of the ranks need not be the same: a launcher may pass them to one host alone.
  if (!is_true_on_all_ranks(group, tcp, may_be_mpi)) return tcp.describe_link();
  auto& mpi = dynamic_cast<ExchangeBackend&>(tcp.bootstrap());
  LinkSpeed other;
  for (int trial = 0; trial < kTrials; ++trial) {
    if (trial > 0) speed = measure_link(group, tcp, layout);
    other = measure_link(group, mpi, layout);
    if (compare(other, speed)) continue;
    return tcp.describe_link() + "; MPI (" + other.describe() + ") is not clearly faster";
  }
  link = {as_exchange_backend(tcp.take_bootstrap()), make_mpi_reduction};
  return "MPI (" + other.describe() + " a rank), since TCP sockets (" + speed.describe() +
         ") are slower";
}

}  // namespace lockstep

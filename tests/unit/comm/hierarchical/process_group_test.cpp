// SPDX-License-Identifier: BSD-3-Clause
// The hierarchical backend over a transport that has nothing but sockets. Ranks are threads, and
// the hosts are names.
#include "comm/hierarchical/make_process_group.h"

#include <gtest/gtest.h>
#include <lockstep/core/error.h>

#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "comm/group/host_layout.h"
#include "comm/hierarchical/link_trial.h"
#include "comm/hierarchical/tcp_reduction.h"
#include "comm/tcp/backend.h"
#include "support/collective_conformance.h"
#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/random_conformance.h"
#include "support/socket_backend.h"

namespace lockstep::testing {
namespace {

using Names = std::vector<std::string>;

/// The host of each rank, from "a,a,b".
Names names_of(const std::string& hosts) {
  Names names;
  std::istringstream text(hosts);
  for (std::string name; std::getline(text, name, ',');) names.push_back(name);
  return names;
}

/// What the ranks of each host send to others over the transport, in one job of this process.
class LinkBytes {
 public:
  void add(const std::string& job, int from, int to, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (job != job_) return;
    const std::string& host = hosts_[static_cast<std::size_t>(from)];
    const bool is_link = host != hosts_[static_cast<std::size_t>(to)];
    // A message to a rank of the same host has no business there at all.
    bytes_[is_link ? host : host + " inside"] += bytes;
  }
  /// From here on, counts what each host of that job sends to others.
  void count(const std::string& job, const Names& hosts) {
    const std::lock_guard lock(mutex_);
    job_ = job;
    hosts_ = hosts;
    bytes_.clear();
  }
  std::map<std::string, std::size_t> sent() {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  std::mutex mutex_;
  std::string job_;
  Names hosts_;
  std::map<std::string, std::size_t> bytes_;
};

LinkBytes& link_bytes() {
  static LinkBytes bytes;
  return bytes;
}

class CountingTransport final : public SocketTransport {
 public:
  CountingTransport(const std::string& job, int rank, int world_size)
      : SocketTransport(job, rank, world_size), job_(job) {}
  std::unique_ptr<TransportRequest> exchange(const Exchange& exchange) override {
    for (int peer = 0; peer < world_size(); ++peer) {
      link_bytes().add(job_, rank(), peer, exchange.sends[static_cast<std::size_t>(peer)].size());
    }
    return SocketTransport::exchange(exchange);
  }
  std::unique_ptr<TransportRequest> send(const at::Tensor& tensor, const MessageHeader& header,
                                         int to) override {
    link_bytes().add(job_, rank(), to, tensor.nbytes());
    return SocketTransport::send(tensor, header, to);
  }

 private:
  std::string job_;
};

std::vector<std::exception_ptr> run_hosts(const std::string& hosts,
                                          const std::function<void(ProcessGroup&)>& body,
                                          const std::string& job = unique_job_id()) {
  const Names names = names_of(hosts);
  const auto make_group = [&](LaunchEnvironment environment) {
    environment.host = names[static_cast<std::size_t>(environment.rank)];
    return make_hierarchical_process_group(
        environment, kRankTimeout,
        [](GroupContext& all) { return std::make_unique<BackendOver<CountingTransport>>(all); },
        make_round_reduction);
  };
  return run_closing_groups(static_cast<int>(names.size()), make_group, body, job);
}

class HostLayouts : public ::testing::TestWithParam<std::string> {};
// One host, two and three; of one rank, of several, of different numbers; and ranks out of order.
std::string name_of(const ::testing::TestParamInfo<std::string>& test) {
  std::string name = test.param;
  std::erase(name, ',');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Hosts, HostLayouts,
                         ::testing::Values("a,a", "a,b", "a,a,b", "a,b,b", "a,b,c", "a,a,b,b",
                                           "a,a,a,b", "a,b,b,b", "c,b,a,a", "a,b,a", "a,b,a,b"),
                         name_of);

TEST_P(HostLayouts, MatchSumsMadeByHandInRankOrder) {
  const auto errors = run_hosts(GetParam(), [](ProcessGroup& group) {
    EXPECT_EQ(group.backend(), Backend::Hierarchical);
    check_reduce(group);
    check_reduce_scatter(group);
    check_broadcast(group);
    check_all_gather(group);
    check_gather_and_scatter(group);
    check_all_to_all(group);
    check_mixed_memory(group);
    check_messages(group);
    check_groups(group);
    check_random_calls(group, 60);
  });
  expect_no_errors(errors);
}

TEST(Hierarchical, DoesEverythingThatABackendMust) {
  for (const std::string hosts : {"a,a,b", "a,b"}) {
    const auto errors = run_hosts(hosts, [](ProcessGroup& group) { check_everything(group); });
    expect_no_errors(errors);
  }
}

/// As `run_hosts`, over TCP, which is measured and then gives way to what the ranks met over.
std::vector<std::exception_ptr> run_hosts_choosing(
    const std::string& hosts, const std::function<void(ProcessGroup&, const LinkSpeed&)>& body) {
  const Names names = names_of(hosts);
  std::vector<LinkSpeed> speeds(names.size());
  const auto make_group = [&](LaunchEnvironment environment) {
    const auto rank = static_cast<std::size_t>(environment.rank);
    environment.host = names[rank];
    const auto choose = [&, rank](GroupContext& group, HostLink& link, const HostLayout& layout) {
      speeds[rank] = measure_link(group, *link.backend, layout);
      auto other = dynamic_cast<TcpBackend&>(*link.backend).take_bootstrap();
      link = {as_exchange_backend(std::move(other)), make_round_reduction};
      return std::string("chosen by hand");
    };
    return make_hierarchical_process_group(
        environment, kRankTimeout,
        [](GroupContext& all) {
          return std::make_unique<TcpBackend>(all, std::make_unique<SocketBackend>(all));
        },
        make_tcp_host_reduction, choose);
  };
  return run_closing_groups(static_cast<int>(names.size()), make_group, [&](ProcessGroup& group) {
    body(group, speeds[static_cast<std::size_t>(group.rank())]);
  });
}

TEST(HierarchicalLink, IsMeasuredAlikeOnAllRanksAndMayBeReplaced) {
  for (const std::string hosts : {"a,b", "a,a,b", "a,b,c", "a,a,b,b"}) {
    expect_no_errors(run_hosts_choosing(hosts, [](ProcessGroup& group, const LinkSpeed& speed) {
      EXPECT_TRUE(speed.is_known());
      const auto own = torch::tensor({speed.latency, speed.bytes_per_second}, torch::kDouble);
      const auto sum = own.clone();
      group.all_reduce(sum, ReduceOp::Max).wait();
      EXPECT_TRUE(sum.equal(own));
      EXPECT_EQ(group.describe_link(), "chosen by hand");
      const auto part = group.split(0);
      EXPECT_EQ(part->describe_link(), "chosen by hand");
      check_reduce(*part);
      part->close();
      check_reduce(group);
    }));
  }
}

/// Chunks are the same for every layout, and take a core for seconds.
class LongTensorsOnHosts : public ::testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Hosts, LongTensorsOnHosts,
                         ::testing::Values("a,a", "a,b", "a,b,a", "a,b,b,b", "c,b,a,a"), name_of);

TEST_P(LongTensorsOnHosts, MoveWhatIsLongerThanAChunk) {
  const auto errors = run_hosts(GetParam(), [](ProcessGroup& group) { check_long_tensors(group); });
  expect_no_errors(errors);
}

using Sent = std::map<std::string, std::size_t>;

/// What each host sends to others in `call`, in units of `unit` bytes; hosts that send nothing are
/// left out.
Sent sent_in(const std::string& hosts, std::size_t unit,
             const std::function<void(ProcessGroup&)>& call) {
  const std::string job = unique_job_id();
  Sent sent;
  const auto errors = run_hosts(
      hosts,
      [&](ProcessGroup& group) {
        group.barrier();
        if (group.rank() == 0) link_bytes().count(job, names_of(hosts));
        group.barrier();
        call(group);
        group.barrier();
        if (group.rank() == 0) sent = link_bytes().sent();
        group.barrier();
      },
      job);
  expect_no_errors(errors);
  Sent units;
  for (const auto& [host, bytes] : sent) {
    EXPECT_EQ(bytes % unit, 0U) << host << ": " << bytes << " bytes";
    if (bytes != 0) units[host] = bytes / unit;
  }
  return units;
}

constexpr std::int64_t kElements = 600'000;  // more than a piece of anything
constexpr std::size_t kTensorBytes = kElements * sizeof(float);

std::vector<torch::Tensor> tensors_if(bool is_root, int count) {
  std::vector<torch::Tensor> tensors;
  for (int i = 0; is_root && i < count; ++i) tensors.push_back(torch::ones({kElements}));
  return tensors;
}

TEST(HierarchicalTraffic, ABroadcastGoesToEachHostOnce) {
  const auto broadcast = [](int root) {
    return [root](ProcessGroup& group) { group.broadcast(torch::ones({kElements}), root).wait(); };
  };
  EXPECT_EQ(sent_in("a,a,b,b", kTensorBytes, broadcast(1)), (Sent{{"a", 1}}));
  EXPECT_EQ(sent_in("a,a,b", kTensorBytes, broadcast(2)), (Sent{{"b", 1}}));
  EXPECT_EQ(sent_in("a,b,c", kTensorBytes, broadcast(1)), (Sent{{"b", 1}, {"c", 1}}));
}

TEST(HierarchicalTraffic, SumsGoFromHostToHostAndBack) {
  const auto all_reduce = [](ProcessGroup& group) {
    group.all_reduce(torch::ones({kElements})).wait();
  };
  EXPECT_EQ(sent_in("a,a,b,b", kTensorBytes, all_reduce), (Sent{{"a", 1}, {"b", 1}}));
  EXPECT_EQ(sent_in("a,a,b,b,c,c", kTensorBytes, all_reduce), (Sent{{"a", 1}, {"b", 2}, {"c", 1}}));
  const auto reduce = [](int root) {
    return [root](ProcessGroup& group) { group.reduce(torch::ones({kElements}), root).wait(); };
  };
  EXPECT_EQ(sent_in("a,a,b,b", kTensorBytes, reduce(3)), (Sent{{"a", 1}}));
  EXPECT_EQ(sent_in("a,a,b,b,c,c", kTensorBytes, reduce(0)), (Sent{{"a", 1}, {"b", 1}, {"c", 1}}));
  const auto reduce_scatter = [](ProcessGroup& group) {
    group.reduce_scatter(torch::empty({kElements}), torch::ones({group.size() * kElements})).wait();
  };
  EXPECT_EQ(sent_in("a,a,b,b", kTensorBytes, reduce_scatter), (Sent{{"a", 4}, {"b", 2}}));
  EXPECT_EQ(sent_in("a,a,a,b", kTensorBytes, reduce_scatter), (Sent{{"a", 4}, {"b", 3}}));
}

TEST(HierarchicalTraffic, AnAllGatherBringsEachPieceToEachHostOnce) {
  const auto all_gather = [](ProcessGroup& group) {
    group.all_gather(torch::empty({group.size() * kElements}), torch::ones({kElements})).wait();
  };
  EXPECT_EQ(sent_in("a,a,b,b", kTensorBytes, all_gather), (Sent{{"a", 2}, {"b", 2}}));
  EXPECT_EQ(sent_in("a,a,b", kTensorBytes, all_gather), (Sent{{"a", 2}, {"b", 1}}));
}

TEST(HierarchicalTraffic, WhatStaysOnAHostCrossesNoLink) {
  const auto all_to_all = [](ProcessGroup& group) {
    const auto whole = torch::ones({group.size() * kElements});
    group.all_to_all(torch::empty_like(whole), whole).wait();
  };
  EXPECT_EQ(sent_in("a,a,b,b", kTensorBytes, all_to_all), (Sent{{"a", 4}, {"b", 4}}));
  const auto gather = [](ProcessGroup& group) {
    const auto outputs = tensors_if(group.rank() == 1, group.size());
    group.gather(outputs, torch::ones({kElements}), 1).wait();
  };
  EXPECT_EQ(sent_in("a,a,b,b", kTensorBytes, gather), (Sent{{"b", 2}}));
  const auto scatter = [](ProcessGroup& group) {
    const auto inputs = tensors_if(group.rank() == 1, group.size());
    group.scatter(torch::empty({kElements}), inputs, 1).wait();
  };
  EXPECT_EQ(sent_in("a,a,b,b", kTensorBytes, scatter), (Sent{{"a", 2}}));
  const auto message = [](ProcessGroup& group) {
    const auto tensor = torch::ones({kElements});
    if (group.rank() == 2) group.send(tensor, 3).wait();
    if (group.rank() == 3) group.recv(tensor, 2).wait();
  };
  EXPECT_EQ(sent_in("a,a,b,b", 1, message), Sent{});
}

TEST(HierarchicalFailure, RanksThatCallDifferentThingsAllSeeIt) {
  const auto errors = run_hosts("a,a,b", [](ProcessGroup& group) {
    group.all_reduce(torch::ones({group.rank() == 1 ? 7 : 8})).wait();
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, "rank 1 called all_reduce (Sum) of 7 x Float");
  }
}

TEST(HierarchicalFailure, AnAllToAllWhoseSizesDoNotFitWritesNothing) {
  const auto errors = run_hosts("a,a,b", [](ProcessGroup& group) {
    const auto input = torch::ones({6});
    const auto output = torch::zeros({group.rank() == 0 ? 7 : 6});
    const std::vector<std::int64_t> expected{2, 2, output.numel() - 4};
    EXPECT_THROW(group.all_to_all(output, input, expected, {2, 2, 2}).wait(), MismatchError);
    EXPECT_EQ(output.count_nonzero().item<std::int64_t>(), 0);
    group.barrier();
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, "rank 2 sends 8 bytes to rank 0, which expects 12");
  }
}

TEST(HierarchicalFailure, ARankThatThrowsIsNamedByThoseOfItsHostAndOfOthers) {
  const auto errors = run_hosts("a,a,b", [](ProcessGroup& group) {
    group.barrier();
    if (group.rank() == 1) throw std::runtime_error("bad luck");
    group.all_reduce(torch::ones({10})).wait();
  });
  for (const std::size_t rank : {std::size_t{0}, std::size_t{2}}) {
    expect_error<PeerLostError>(errors[rank], "rank ");
    expect_error<PeerLostError>(errors[rank], "gave up");
  }
}

TEST(HierarchicalFailure, ARankThatIsLateIsNamed) {
  for (const std::string hosts : {"a,a,b", "a,b,b"}) {
    const auto errors = run_hosts(hosts, [](ProcessGroup& group) {
      const auto tensor = torch::ones({2});
      if (group.rank() == 0) group.all_reduce(tensor).wait(std::chrono::milliseconds(200));
      group.recv(tensor, 0).wait();  // until rank 0 has given up
    });
    expect_error<TimeoutError>(errors[0], "rank 1 has not arrived");
    expect_error<PeerLostError>(errors[1], "gave up");
    expect_error<PeerLostError>(errors[2], "gave up");
  }
}

TEST(HierarchicalFailure, AMessageOfAnotherSizeIsRefusedByTheNumbersOfTheGroup) {
  for (const std::string hosts : {"a,b,b", "a,b,c"}) {
    const auto errors = run_hosts(hosts, [](ProcessGroup& group) {
      if (group.rank() == 1) group.send(torch::ones({3}), 2, 4).wait();
      if (group.rank() == 2) group.recv(torch::ones({5}), 1, 4).wait();
    });
    expect_error<MismatchError>(errors[2], "rank 1 sent a message of 3 x Float");
  }
}

}  // namespace
}  // namespace lockstep::testing

// SPDX-License-Identifier: BSD-3-Clause
// Ranks of several hosts with NCCL, as they come together: NCCL is made up (support/fake_nccl.h),
// and the hosts are names. What is at NCCL's side goes over TCP between these hosts.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>
#include <sys/socket.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "comm/hierarchical/make_process_group.h"
#include "comm/hierarchical/tcp_reduction.h"
#include "comm/nccl/interfaces.h"
#include "comm/shared_memory/backend.h"
#include "comm/tcp/backend.h"
#include "support/nccl_ranks.h"

namespace lockstep::testing {
namespace {

/// The same rank on its host: `hosts` has a letter for each rank.
LaunchEnvironment on_host(LaunchEnvironment environment, const std::string& hosts) {
  const auto own = hosts.begin() + environment.rank;
  environment.local_size = static_cast<int>(std::count(hosts.begin(), hosts.end(), *own));
  environment.local_rank = static_cast<int>(std::count(hosts.begin(), own, *own));
  return environment;
}

std::unique_ptr<TcpBackend> make_tcp(GroupContext& group) {
  return std::make_unique<TcpBackend>(group, std::make_unique<SharedMemoryBackend>(group));
}

std::vector<std::exception_ptr> run_hosts(const std::shared_ptr<FakeNccl>& world,
                                          const std::string& hosts, const NcclBody& body) {
  const auto make_group = [&](LaunchEnvironment environment) {
    environment.host = hosts.substr(static_cast<std::size_t>(environment.rank), 1);
    // They meet as the ranks of one machine, which they are.
    auto control = make_hierarchical_process_group(environment, kRankTimeout, make_tcp,
                                                   make_tcp_host_reduction);
    return make_nccl_process_group(on_host(environment, hosts), kRankTimeout, std::move(control),
                                   world->services(environment.rank), /*check_calls=*/true);
  };
  return run_groups(static_cast<int>(hosts.size()), make_group, body);
}

/// The remarks that are made while it lives.
class Remarks {
 public:
  Remarks() {
    logging::set_level(logging::Level::Info);
    set_log_sink([this](logging::Level, std::string_view text) {
      const std::lock_guard lock(mutex_);
      texts_.emplace_back(text);
    });
  }
  ~Remarks() {
    set_log_sink({});
    logging::set_level(logging::Level::Warning);
  }
  [[nodiscard]] std::vector<std::string> with(const std::string& part) {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> found;
    std::copy_if(texts_.begin(), texts_.end(), std::back_inserter(found),
                 [&](const auto& text) { return text.find(part) != std::string::npos; });
    return found;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> texts_;
};

class NcclOverHosts : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Hosts, NcclOverHosts, ::testing::Values("ab", "aab", "abb", "aba"));

TEST_P(NcclOverHosts, AllRanksComeToTheIdOfRank0) {
  static_cast<void>(set_nccl_interfaces());  // before there are threads
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_hosts(world, GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    sum_up(*group);
    group->close();
  });
  for (const auto& error : errors) EXPECT_EQ(text_of(error), "");
  EXPECT_EQ(world->id_makers(), std::vector<int>{0});
  EXPECT_EQ(world->complaints(), std::vector<std::string>());
}

TEST_P(NcclOverHosts, AllRanksLearnThatThereIsNoId) {
  static_cast<void>(set_nccl_interfaces());
  const auto world = std::make_shared<FakeNccl>();
  world->fail_unique_id();
  const auto errors = run_hosts(world, GetParam(),
                                [](const std::shared_ptr<ProcessGroup>& group) { sum_up(*group); });
  for (const auto& error : errors) expect_error<CommError>(error, "ncclGetUniqueId on rank 0");
}

TEST(NcclInterfaces, EachRankSaysOnceWhichItUsesAndWhy) {
  static_cast<void>(set_nccl_interfaces());
  Remarks remarks;
  const auto world = std::make_shared<FakeNccl>();
  static_cast<void>(run_hosts(world, "aab", [](const std::shared_ptr<ProcessGroup>& group) {
    sum_up(*group);
    const auto part = group->split(group->rank() % 2);  // makes no line of its own
    part->close();
    group->close();
  }));
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(remarks.with("rank " + std::to_string(rank) + ": NCCL's sockets use "),
              std::vector<std::string>{"rank " + std::to_string(rank) + ": NCCL's sockets use " +
                                       set_nccl_interfaces().description});
  }
}

TEST(NcclInterfaces, RanksOfOneHostNeedNone) {
  Remarks remarks;
  run_nccl_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    sum_up(*group);
    group->close();
  });
  EXPECT_EQ(remarks.with("NCCL's sockets"), std::vector<std::string>());
}

// In a process of its own: NCCL reads the variable once, and so does Lockstep.
void exit_with_what_nccl_sees(const std::string& of_nccl, const std::string& of_lockstep) {
  ::setenv("LOCKSTEP_INTERFACES", of_lockstep.c_str(), 1);
  of_nccl.empty() ? ::unsetenv("NCCL_SOCKET_IFNAME")
                  : ::setenv("NCCL_SOCKET_IFNAME", of_nccl.c_str(), 1);
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_hosts(world, "ab", [](const std::shared_ptr<ProcessGroup>& group) {
    sum_up(*group);
    group->close();
  });
  for (const auto& error : errors) std::fprintf(stderr, "%s", text_of(error).c_str());
  std::fprintf(stderr, "NCCL sees '%s'\n", world->interfaces().c_str());
  std::_Exit(0);
}

TEST(NcclInterfacesDeathTest, AreThoseOfLockstepWhereTheUserNamesNone) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(exit_with_what_nccl_sees("", "lo"), ::testing::ExitedWithCode(0), "NCCL sees 'lo'");
}

TEST(NcclInterfacesDeathTest, AreThoseThatTheUserNames) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(exit_with_what_nccl_sees("=eth7", "lo"), ::testing::ExitedWithCode(0),
              "NCCL sees '=eth7'");
}

native::InterfaceAddress address_of(const std::string& interface, std::uint8_t last) {
  native::InterfaceAddress address{.interface = interface, .address = {}};
  address.address.family = AF_INET;
  address.address.bytes = {10, 0, 0, last};
  return address;
}

TEST(NcclInterfaces, AreMatchedAsNcclDoes) {
  const std::vector<native::InterfaceAddress> addresses{
      address_of("eth0", 1), address_of("eth01", 2), address_of("docker0", 3), address_of("lo", 4)};
  const auto text = [&](const std::string& of_nccl, const std::string& of_lockstep) {
    return choose_nccl_interfaces(of_nccl, of_lockstep, addresses).description;
  };
  EXPECT_EQ(text("", ""),
            "eth0 10.0.0.1, eth01 10.0.0.2 (chosen by NCCL, since neither NCCL_SOCKET_IFNAME nor "
            "LOCKSTEP_INTERFACES is set)");
  EXPECT_EQ(text("", "docker,lo"),
            "docker0 10.0.0.3, lo 10.0.0.4 (because LOCKSTEP_INTERFACES is 'docker,lo')");
  EXPECT_EQ(text("=eth0", "lo"), "eth0 10.0.0.1 (because NCCL_SOCKET_IFNAME is '=eth0')");
  EXPECT_EQ(text("^eth,lo", ""), "docker0 10.0.0.3 (because NCCL_SOCKET_IFNAME is '^eth,lo')");
  EXPECT_EQ(text("ens", ""), "no interface of this host (because NCCL_SOCKET_IFNAME is 'ens')");
  EXPECT_FALSE(choose_nccl_interfaces("ens", "", addresses).has_any);
  EXPECT_EQ(choose_nccl_interfaces("=eth0", "lo", addresses).names, "");
  EXPECT_EQ(choose_nccl_interfaces("", "lo", addresses).names, "lo");
}

}  // namespace
}  // namespace lockstep::testing

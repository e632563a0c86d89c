// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/environment.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

namespace lockstep::testing {

/// The world for which a program was started: `--expected-world-size 3`, or `--expected-hosts 2,1`
/// (2x1, 2x2, ...) for the hosts of tools/hosts.sh, which are called h1, h2, and so on. A test that
/// runs in another world proves nothing.
class ExpectedWorld {
 public:
  ExpectedWorld(int argc, char** argv) {
    for (int i = 1; i + 1 < argc; ++i) {
      if (std::strcmp(argv[i], "--expected-world-size") == 0) size_ = std::atoi(argv[i + 1]);
      if (std::strcmp(argv[i], "--expected-hosts") == 0) set_hosts(argv[i + 1]);
    }
  }

  /// What is not as expected; empty where all is.
  [[nodiscard]] std::string difference_to(const LaunchEnvironment& found) const {
    if (size_ == 0) return "neither --expected-world-size nor --expected-hosts is given";
    if (found.world_size != size_) {
      return "the world has " + std::to_string(found.world_size) + " ranks instead of " +
             std::to_string(size_);
    }
    return ranks_of_hosts_.empty() ? "" : difference_to_place(found);
  }

 private:
  void set_hosts(const std::string& layout) {
    const auto times = layout.find('x');
    if (times != std::string::npos) {
      ranks_of_hosts_.assign(std::stoul(layout), std::stoi(layout.substr(times + 1)));
    } else {
      std::istringstream list(layout);
      for (std::string ranks; std::getline(list, ranks, ',');)
        ranks_of_hosts_.push_back(std::stoi(ranks));
    }
    size_ = std::accumulate(ranks_of_hosts_.begin(), ranks_of_hosts_.end(), 0);
  }

  [[nodiscard]] std::string difference_to_place(const LaunchEnvironment& found) const {
    int local_rank = found.rank;
    std::size_t host = 0;
    while (local_rank >= ranks_of_hosts_[host]) local_rank -= ranks_of_hosts_[host++];
    const std::string expected =
        place("h" + std::to_string(host + 1), local_rank, ranks_of_hosts_[host]);
    char name[256] = {};
    ::gethostname(name, sizeof(name) - 1);
    const std::string actual = place(name, found.local_rank, found.local_size);
    return actual == expected
               ? ""
               : "rank " + std::to_string(found.rank) + " is " + actual + " instead of " + expected;
  }

  static std::string place(const std::string& host, int local_rank, int local_size) {
    return "rank " + std::to_string(local_rank) + " of " + std::to_string(local_size) +
           " on host " + host;
  }

  int size_ = 0;
  std::vector<int> ranks_of_hosts_;
};

}  // namespace lockstep::testing

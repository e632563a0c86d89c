// SPDX-License-Identifier: BSD-3-Clause
// What datasets print in worker processes, where it does not go to a terminal.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <sstream>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using WorkerOutputTest = NothingLeftBehind;

constexpr std::size_t kPrinting = 12;

// Sample 5 kills its first worker after it has printed.
int run_program(int file, bool with_stdio, const SharedCounters& deaths) {
  ::dup2(file, STDOUT_FILENO);
  std::ios_base::sync_with_stdio(with_stdio);
  std::setvbuf(stdout, nullptr, _IOFBF, 1 << 16);
  std::printf("parent printf ");
  std::cout << "parent cout ";
  Numbers dataset{kPrinting};
  dataset.before = [&](std::size_t index) {
    std::printf("printf %zu.\n", index);
    if (index != 5) std::cout << "cout " << index << ".\n";
    if (index == 5 && deaths.words[0].fetch_add(1) == 0) ::raise(SIGKILL);
  };
  {
    DataLoader loader(dataset, in_order(kPrinting), options_with(2).prepare_next_epoch(false));
    if (pass_over_errors(loader).batches != 3) return 1;
  }
  std::cout.flush();
  std::fflush(stdout);
  return 0;
}

std::size_t occurrences(const std::string& text, const std::string& what) {
  std::size_t found = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

TEST_F(WorkerOutputTest, IsAllThereOnce) {
  for (const bool with_stdio : {true, false}) {
    const auto path =
        std::filesystem::temp_directory_path() / ("lockstep_output_" + std::to_string(::getpid()));
    const int file = ::open(path.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_APPEND | O_CLOEXEC, 0600);
    SharedCounters deaths;
    EXPECT_EQ(status_of_child([&] { return run_program(file, with_stdio, deaths); }), 0);
    ::close(file);
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    std::filesystem::remove(path);
    for (std::size_t index = 0; index < kPrinting; ++index) {
      // Those that the worker had claimed together with sample 5 come twice.
      const bool may_come_twice = index / 4 == 1;
      const auto printed = occurrences(text.str(), "printf " + std::to_string(index) + ".\n");
      EXPECT_TRUE(printed == 1 || (printed == 2 && may_come_twice)) << index << text.str();
      // Its own buffer, without stdio, is lost with a worker that is killed.
      if (may_come_twice || (!with_stdio && index < 4)) continue;
      EXPECT_EQ(occurrences(text.str(), "cout " + std::to_string(index) + ".\n"), 1U)
          << index << text.str();
    }
    EXPECT_EQ(occurrences(text.str(), "parent printf "), 1U) << text.str();
    EXPECT_EQ(occurrences(text.str(), "parent cout "), 1U) << text.str();
  }
}

}  // namespace
}  // namespace lockstep::data

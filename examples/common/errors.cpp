// SPDX-License-Identifier: BSD-3-Clause
#include "errors.h"

#include "report.h"

#include <sys/prctl.h>
#include <torch/torch.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>

namespace example {
namespace {

// Nothing where the launch variables are wrong; then they are what the message is about.
std::optional<lockstep::LaunchEnvironment> try_detect() {
  try {
    return lockstep::LaunchEnvironment::detect();
  } catch (const lockstep::LaunchError&) {
    return std::nullopt;
  }
}

void report_with_rank(const std::string& program, const std::string& message) {
  const auto launch = try_detect();
  const auto who = launch ? "rank " + std::to_string(launch->rank) + ": " : std::string();
  report(program, who + message);
}

// The name that the process of a rank takes when the rank has nothing more to say. It is how ranks
// whose group has failed still see each other.
constexpr const char* kHasSpoken = "has_spoken";
constexpr std::chrono::milliseconds kLook{50};

// Whether all ranks have that name, which their launcher has started on this host.
bool have_all_spoken(int ranks) {
  const std::string name = std::string(" (") + kHasSpoken + ") ";
  int found = 0;
  std::error_code ignored;
  std::filesystem::directory_iterator entry("/proc", ignored);
  for (; entry != std::filesystem::directory_iterator(); entry.increment(ignored)) {
    const std::string process = entry->path().filename();
    // This process is there as "self", too.
    if (process.find_first_not_of("0123456789") != std::string::npos) continue;
    // 123 (name) S 100 ...: the process, its name, its state and its parent.
    std::ifstream file(entry->path() / "stat");
    std::string line;
    std::getline(file, line);
    const auto place = line.find(name);
    if (place == std::string::npos) continue;
    std::istringstream rest(line.substr(place + name.size()));
    char state = 0;
    pid_t parent = 0;
    rest >> state >> parent;
    if (state != 'Z' && parent == ::getppid()) ++found;  // Z: it has ended, maybe long ago
  }
  return found == ranks;
}

std::chrono::duration<double> longest_wait() {
  const char* seconds = std::getenv("LOCKSTEP_EXAMPLE_WAIT_S");
  return std::chrono::duration<double>(seconds == nullptr ? 2 : std::atof(seconds));
}

}  // namespace

void let_others_speak() {
  const auto launch = try_detect();
  if (!launch || launch->world_size <= 1) return;
  ::prctl(PR_SET_NAME, kHasSpoken);
  const bool are_all_here = launch->local_size == launch->world_size;
  const auto end = std::chrono::steady_clock::now() + longest_wait();
  while (std::chrono::steady_clock::now() < end) {
    if (are_all_here && have_all_spoken(launch->world_size)) {
      std::this_thread::sleep_for(3 * kLook);  // so that the others see this rank, too
      return;
    }
    std::this_thread::sleep_for(kLook);
  }
}

int exit_code_of(const std::string& program, const std::function<int()>& body) {
  try {
    return body();
  } catch (const ReportedElsewhere&) {
  } catch (const c10::Error& error) {
    report_with_rank(program, error.what_without_backtrace());
  } catch (const std::exception& error) {
    report_with_rank(program, error.what());
  }
  let_others_speak();
  return 1;
}

void agree_on_success(lockstep::ProcessGroup& group, const std::exception_ptr& error) {
  const auto first = torch::tensor({error ? group.rank() : group.size()}, torch::kLong);
  group.all_reduce(first, lockstep::ReduceOp::Min).wait();
  const auto failed = first.item<int64_t>();
  if (failed == group.size()) return;
  group.close();
  if (failed == group.rank()) std::rethrow_exception(error);
  throw ReportedElsewhere();
}

}  // namespace example

// SPDX-License-Identifier: BSD-3-Clause
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/launcher_choice.h"

namespace lockstep {
namespace {

// Far more than lie between a launcher and its ranks.
constexpr int kMostAncestors = 64;

/// What a process got when it began; nothing where that is none of this user's business.
std::optional<Lookup> environment_of(long pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/environ", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (text.empty()) return std::nullopt;
  auto variables = std::make_shared<std::map<std::string, std::string>>();
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = std::min(text.find('\0', start), text.size());
    const std::size_t sign = text.find('=', start);
    if (sign < end) {
      variables->emplace(text.substr(start, sign - start), text.substr(sign + 1, end - sign - 1));
    }
    start = end + 1;
  }
  return [variables](const std::string& name) -> std::optional<std::string> {
    const auto found = variables->find(name);
    return found == variables->end() ? std::nullopt : std::optional(found->second);
  };
}

/// 0 where there is none.
long parent_of(long pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  // "pid (name) state parent ...": the name may hold anything.
  const auto end_of_name = text.rfind(')');
  if (end_of_name == std::string::npos || end_of_name + 4 > text.size()) return 0;
  return std::atol(text.c_str() + end_of_name + 3);
}

}  // namespace

std::vector<Lookup> process_ancestors() {
  std::vector<Lookup> ancestors;
  for (long pid = ::getpid(); pid > 0 && ancestors.size() < kMostAncestors; pid = parent_of(pid)) {
    auto environment = environment_of(pid);
    if (!environment) break;
    ancestors.push_back(std::move(*environment));
  }
  return ancestors;
}

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#include "support/crash_disk.h"

#include <algorithm>
#include <set>
#include <utility>

namespace lockstep::testing {
namespace {

// What may be in a part of a file that never reached the disk: the text that this part of the disk
// had before, for example. It ends lines, so that what follows may look like one.
constexpr const char* kGarbage = "0123abcd {\"run\":\"old\"}\n\xFF\x01";

std::string filler(std::size_t bytes, bool is_garbage) {
  std::string text(bytes, '\0');
  const std::string garbage = kGarbage;
  for (std::size_t i = 0; is_garbage && i < bytes; ++i) text[i] = garbage[i % garbage.size()];
  return text;
}

}  // namespace

CrashDisk::CrashDisk() {
  make(true);
}

CrashDisk::CrashDisk(const DiskTree& tree) : CrashDisk() {
  for (const auto& [path, bytes] : tree) {  // a folder comes before what is in it
    const auto slash = path.rfind('/');
    const Node folder =
        find(slash == std::string::npos ? "" : path.substr(0, slash)).value();  // NOLINT
    const Node node = make(!bytes);
    name(folder, slash == std::string::npos ? path : path.substr(slash + 1), node);
    if (bytes) write(node, 0, *bytes);
  }
  for (Node node = 0; node < nodes_.size(); ++node) sync(node);
}

CrashDisk::Node CrashDisk::make(bool is_folder) {
  nodes_.emplace_back().is_folder = is_folder;
  return nodes_.size() - 1;
}

void CrashDisk::name(Node folder, const std::string& name, Node node) {
  nodes_[folder].names[name] = node;
  nodes_[folder].changes.push_back({"", name, node});
  if (name == "LOCK") nodes_[node].is_exempt = true;
}

void CrashDisk::rename(Node folder, const std::string& from, const std::string& to) {
  const Node node = nodes_[folder].names.at(from);
  nodes_[folder].names.erase(from);
  nodes_[folder].names[to] = node;
  nodes_[folder].changes.push_back({from, to, node});
}

void CrashDisk::remove(Node folder, const std::string& name) {
  const Node node = nodes_[folder].names.at(name);
  nodes_[folder].names.erase(name);
  nodes_[folder].changes.push_back({name, "", node});
}

void CrashDisk::write(Node file, std::size_t offset, const std::string& bytes) {
  Data& data = nodes_[file];
  if (bytes.empty()) return;
  const std::size_t end = offset + bytes.size();
  if (data.now.size() < end) resize(file, end);
  data.now.replace(offset, bytes.size(), bytes);
  for (std::size_t sector = offset / kSector; sector * kSector < end; ++sector) {
    data.sectors[sector].push_back(data.now.substr(sector * kSector, kSector));
  }
}

void CrashDisk::resize(Node file, std::size_t bytes) {
  Data& data = nodes_[file];
  if (bytes == data.now.size()) return;
  data.now.resize(bytes);
  data.sizes.push_back(bytes);
}

void CrashDisk::sync(Node node) {
  if (ignores_syncs_) return;
  Data& data = nodes_[node];
  data.synced = data.now;
  data.synced_names = data.names;
  data.changes.clear();
  data.sizes.clear();
  data.sectors.clear();
}

std::optional<CrashDisk::Node> CrashDisk::find(const std::string& path) const {
  Node node = kRoot;
  for (std::size_t at = 0; at < path.size();) {
    const auto end = std::min(path.find('/', at), path.size());
    const auto found = nodes_[node].names.find(path.substr(at, end - at));
    if (found == nodes_[node].names.end()) return std::nullopt;
    node = found->second;
    at = end + 1;
  }
  return node;
}

std::vector<CrashDisk::Node> CrashDisk::reachable() const {
  std::set<Node> seen{kRoot};
  std::vector<Node> open{kRoot};
  while (!open.empty()) {
    const Data& data = nodes_[open.back()];
    open.pop_back();
    const auto add = [&](Node node) {
      if (seen.insert(node).second) open.push_back(node);
    };
    for (const auto& [name, node] : data.synced_names) add(node);
    for (const auto& change : data.changes) {
      if (!change.added.empty()) add(change.node);
    }
  }
  return {seen.begin(), seen.end()};
}

std::vector<CrashDisk::Fact> CrashDisk::facts() const {
  std::vector<Fact> facts;
  bool has_gaps = false;
  int page = 0;
  for (const Node node : reachable()) {
    const Data& data = nodes_[node];
    for (std::size_t i = 0; i < data.changes.size(); ++i) facts.push_back({2, -1, false});
    if (data.is_exempt || (data.sizes.empty() && data.sectors.empty())) continue;
    has_gaps = true;
    facts.push_back({static_cast<int>(data.sizes.size()) + 1, -1, false});
    std::size_t page_before = 0;
    ++page;
    for (const auto& [sector, images] : data.sectors) {
      if (sector * kSector / kPage != page_before) ++page;
      page_before = sector * kSector / kPage;
      facts.push_back({static_cast<int>(images.size()) + 1, page, false});
    }
  }
  if (has_gaps) facts.push_back({2, -1, true});
  return facts;
}

DiskTree CrashDisk::after_power_cut(const Choice& choice) const {
  std::map<Node, std::map<std::string, Node>> names;
  std::map<Node, std::string> bytes;
  const bool is_garbage = !choice.empty() && choice.back() != 0;
  std::size_t next = 0;
  for (const Node node : reachable()) {
    const Data& data = nodes_[node];
    auto& own = names[node] = data.synced_names;
    for (const auto& change : data.changes) {
      if (choice[next++] == 0) continue;
      const auto old = own.find(change.removed);
      if (old != own.end() && old->second == change.node) own.erase(old);
      if (!change.added.empty()) own[change.added] = change.node;
    }
    if (data.is_exempt) bytes[node] = data.now;
    if (data.is_folder || data.is_exempt) continue;
    std::string& text = bytes[node] = data.synced;
    if (data.sizes.empty() && data.sectors.empty()) continue;
    const int size = choice[next++];
    const std::size_t end =
        size == 0 ? data.synced.size() : data.sizes[static_cast<std::size_t>(size) - 1];
    const std::size_t before = std::min(end, data.synced.size());
    text.resize(before);
    text += filler(end - before, is_garbage);
    for (const auto& [sector, images] : data.sectors) {
      const int image = choice[next++];
      if (image == 0 || sector * kSector >= end) continue;
      const std::string& found = images[static_cast<std::size_t>(image) - 1];
      const std::size_t count = std::min(found.size(), end - sector * kSector);
      text.replace(sector * kSector, count, found, 0, count);
    }
  }
  DiskTree tree;
  add_tree(names, bytes, kRoot, "", tree);
  return tree;
}

DiskTree CrashDisk::now() const {
  std::map<Node, std::map<std::string, Node>> names;
  std::map<Node, std::string> bytes;
  for (Node node = 0; node < nodes_.size(); ++node) {
    names[node] = nodes_[node].names;
    bytes[node] = nodes_[node].now;
  }
  DiskTree tree;
  add_tree(names, bytes, kRoot, "", tree);
  return tree;
}

void CrashDisk::add_tree(const std::map<Node, std::map<std::string, Node>>& names,
                         const std::map<Node, std::string>& bytes, Node folder,
                         const std::string& prefix, DiskTree& tree) const {
  for (const auto& [name, node] : names.at(folder)) {
    const std::string path = prefix + name;
    if (nodes_[node].is_folder) {
      tree[path] = std::nullopt;
      add_tree(names, bytes, node, path + "/", tree);
    } else {
      tree[path] = bytes.at(node);
    }
  }
}

namespace {

using Choice = CrashDisk::Choice;
using Fact = CrashDisk::Fact;

int last_of(const Fact& fact) {
  return fact.ways - 1;
}

std::vector<Choice> all_choices(const std::vector<Fact>& facts) {
  std::vector<Choice> all{{}};
  for (const Fact& fact : facts) {
    std::vector<Choice> longer;
    for (const Choice& choice : all) {
      for (int way = 0; way < fact.ways; ++way) {
        longer.push_back(choice);
        longer.back().push_back(way);
      }
    }
    all = std::move(longer);
  }
  return all;
}

/// One of the ways in which much, or little, has reached the disk.
Choice drawn_choice(const std::vector<Fact>& facts, std::mt19937& draw) {
  const auto below = [&](std::size_t count) { return static_cast<std::size_t>(draw()) % count; };
  const std::size_t kind = below(5);
  const bool by_pages = below(2) == 0;
  const std::size_t one = below(facts.size());
  // Of ten: how many of the facts are as the program sees them.
  const std::size_t tenths = kind == 0 ? 9 : kind == 1 ? 1 : 5;
  Choice choice;
  for (std::size_t i = 0; i < facts.size(); ++i) {
    const Fact& fact = facts[i];
    const bool same_page = by_pages && i > 0 && fact.page >= 0 && fact.page == facts[i - 1].page;
    if (kind == 3 || kind == 4) {  // all but one, or one alone
      choice.push_back((i == one) == (kind == 3) ? 0 : last_of(fact));
    } else if (same_page) {
      choice.push_back(choice.back() == 0 ? 0 : last_of(fact));
    } else if (fact.ways > 2 && below(3) == 0) {
      choice.push_back(static_cast<int>(below(static_cast<std::size_t>(fact.ways))));
    } else {
      choice.push_back(below(10) < tenths ? last_of(fact) : 0);
    }
  }
  for (std::size_t i = 0; i < facts.size(); ++i) {
    if (facts[i].fill) choice[i] = static_cast<int>(below(2));
  }
  return choice;
}

}  // namespace

std::vector<Choice> draw_choices(const std::vector<Fact>& facts, std::size_t most,
                                 std::mt19937& draw) {
  std::size_t count = 1;
  for (const Fact& fact : facts) {
    count = std::min(most + 1, count * static_cast<std::size_t>(fact.ways));
  }
  if (count <= most) return all_choices(facts);
  std::set<Choice> drawn;
  drawn.emplace(facts.size(), 0);
  Choice everything;
  for (const Fact& fact : facts) everything.push_back(last_of(fact));
  drawn.insert(std::move(everything));
  // A draw may be one that there is.
  for (std::size_t i = 0; i < 20 * most && drawn.size() < most; ++i) {
    drawn.insert(drawn_choice(facts, draw));
  }
  return {drawn.begin(), drawn.end()};
}

}  // namespace lockstep::testing

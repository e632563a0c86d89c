// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace lockstep::testing {

/// What is below a folder, by path: the bytes of a file; nothing for a folder.
using DiskTree = std::map<std::string, std::optional<std::string>>;

/// A folder on a disk that promises what POSIX does, and nothing more: the bytes of a file stay
/// when the file was synced, and a name stays when the folder that has it was synced. Until then,
/// each of the following is on the disk or not, whatever came before or after it: a name, a
/// removal, a rename (as a whole), each sector of each write, and the size of a file. Where a file
/// has become longer and its bytes are missing, there are zeros, or bytes of something else.
///
/// A copy is the disk at that moment. The files called LOCK are exempt: what is in them matters to
/// nobody after a power cut, and they would multiply the states.
class CrashDisk {
 public:
  using Node = std::size_t;
  static constexpr Node kRoot = 0;
  static constexpr std::size_t kSector = 512;
  static constexpr std::size_t kPage = 4096;

  /// An independent fact about what has reached the disk: one of so many.
  struct Fact {
    int ways = 2;       ///< 0: as it was before; the last: as the program sees it
    int page = -1;      ///< facts of one page have the same number; -1: it is of none
    bool fill = false;  ///< it says what is in place of missing bytes
  };
  using Choice = std::vector<int>;  ///< one number for each fact

  CrashDisk();
  /// Everything is on the disk.
  explicit CrashDisk(const DiskTree& tree);

  Node make(bool is_folder);
  void name(Node folder, const std::string& name, Node node);
  void rename(Node folder, const std::string& from, const std::string& to);
  void remove(Node folder, const std::string& name);
  void write(Node file, std::size_t offset, const std::string& bytes);
  void resize(Node file, std::size_t bytes);
  void sync(Node node);
  /// From now on, it keeps no promise: nothing that is synced need be on the disk.
  void ignore_syncs() { ignores_syncs_ = true; }

  /// By a path with `/` between names; empty: the root. Nothing: there is none.
  [[nodiscard]] std::optional<Node> find(const std::string& path) const;
  [[nodiscard]] std::size_t size(Node file) const { return nodes_[file].now.size(); }
  /// As programs see it; also what a killed process leaves.
  [[nodiscard]] DiskTree now() const;
  /// What may or may not have reached the disk at this moment.
  [[nodiscard]] std::vector<Fact> facts() const;
  /// What there is when the power was cut at this moment.
  [[nodiscard]] DiskTree after_power_cut(const Choice& choice) const;

 private:
  struct NameChange {
    std::string removed;  // the name; empty: none
    std::string added;    // likewise
    Node node = 0;        // to which either leads
  };
  struct Data {
    bool is_folder = false;
    bool is_exempt = false;
    std::map<std::string, Node> names, synced_names;
    std::vector<NameChange> changes;
    std::string now, synced;
    std::vector<std::size_t> sizes;                           // since the sync
    std::map<std::size_t, std::vector<std::string>> sectors;  // likewise, by number: their images
  };

  /// All that a name may lead to after a power cut, in the order of their numbers.
  [[nodiscard]] std::vector<Node> reachable() const;
  void add_tree(const std::map<Node, std::map<std::string, Node>>& names,
                const std::map<Node, std::string>& bytes, Node folder, const std::string& prefix,
                DiskTree& tree) const;

  std::vector<Data> nodes_;
  bool ignores_syncs_ = false;
};

/// Choices for a moment, each once: all, if there are at most `most`, otherwise so many that a seed
/// draws, among them nothing and everything.
[[nodiscard]] std::vector<CrashDisk::Choice> draw_choices(const std::vector<CrashDisk::Fact>& facts,
                                                          std::size_t most, std::mt19937& draw);

}  // namespace lockstep::testing

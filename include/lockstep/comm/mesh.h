// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>

#include <memory>
#include <string>
#include <vector>

namespace lockstep {

/// The ranks of a group as a grid with named dimensions, and a process group along each dimension.
///
///     lockstep::Mesh mesh(group, {{"stage", 2}, {"data", group->size() / 2}});
///     const auto replicas = mesh.group("data");  // the ranks with this rank's stage
///
/// The last dimension varies fastest: with the sizes 2 and 3, ranks 0, 1, 2 are stage 0. The group
/// of a dimension contains the ranks that differ from this one in that dimension alone, in the
/// order of their indices. A dimension of size 1 has a group of this rank alone.
///
/// Collective: construction and `close`.
/// Thread-safety: const members may be called from several threads; a group is used as any other.
/// Owns: a reference to each of its groups, not to the group that it divides. The groups are closed
/// by `close`, here or of the group itself. Destruction communicates nothing, so a group that
/// nobody closed and nobody holds any more is given up, and its other ranks fail. A failure of the
/// group that it divides does not fail those of a mesh that still lives: ranks that wait in them do
/// so until the timeout.
class LOCKSTEP_API Mesh final {
 public:
  /// A dimension of the grid.
  struct Dimension {
    std::string name;  ///< how the program asks for it; unique and not empty
    int size = 1;      ///< how many ranks lie along it
  };

  /// Divides `group` once for each dimension, in the order of the list.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks of `group` call it with the same dimensions.
  /// Throws: `MismatchError` on all ranks for dimensions that differ between ranks; `c10::Error`
  /// for no dimensions, a name that is empty or repeated, a size below 1, or sizes whose product is
  /// not `group.size()`; what a collective throws.
  Mesh(ProcessGroup& group, std::vector<Dimension> dimensions);
  /// The same for a group as `init_process_group` returns it.
  ///
  /// Throws: also `c10::Error` for null.
  Mesh(const std::shared_ptr<ProcessGroup>& group, std::vector<Dimension> dimensions);

  /// The group along that dimension.
  ///
  /// Throws: `c10::Error` with all names, for a name that the mesh does not have.
  [[nodiscard]] const std::shared_ptr<ProcessGroup>& group(const std::string& name) const;
  /// This rank's place along that dimension, from 0 to `size(name)` - 1: its rank in `group(name)`.
  ///
  /// Throws: as `group`.
  [[nodiscard]] int index(const std::string& name) const;
  /// How many ranks lie along that dimension.
  ///
  /// Throws: as `group`.
  [[nodiscard]] int size(const std::string& name) const;
  /// The names of the dimensions, in the order of construction.
  [[nodiscard]] std::vector<std::string> names() const;

  /// Closes the group of each dimension. Groups that are closed already stay as they are.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks call it.
  /// Throws: the first group's error, after all groups have been closed or have failed to.
  void close();

 private:
  struct Axis {
    Dimension dimension;
    int index;
    std::shared_ptr<ProcessGroup> group;
  };

  [[nodiscard]] const Axis& axis(const std::string& name) const;

  std::vector<Axis> axes_;
};

}  // namespace lockstep

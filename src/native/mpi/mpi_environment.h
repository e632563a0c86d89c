// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <mpi.h>

#include <cstddef>
#include <string>
#include <vector>

namespace lockstep::native {

/// Throws `std::runtime_error` with MPI's own text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* call);

/// Starts MPI unless it runs already, and has it end when the program does. A program that starts
/// MPI itself asks for MPI_THREAD_SERIALIZED or more; for groups in several threads,
/// MPI_THREAD_MULTIPLE. Throws: `std::runtime_error` when MPI has ended already or offers fewer
/// threads, or a group used it before this process was forked. A fork that comes between the
/// program's own MPI_Init and its first group goes unnoticed: MPI does not say who started it.
void ensure_mpi();

/// Whether MPI_Finalize has been called: by the program, since Lockstep does it last of all.
[[nodiscard]] bool has_mpi_ended() noexcept;
/// Throws: `std::runtime_error` when `has_mpi_ended`.
void check_mpi_runs();

/// Whether MPI says that it reads and writes memory of CUDA devices. MPI has been started.
[[nodiscard]] bool is_mpi_cuda_aware();

/// Makes the process end without MPI_Finalize, which waits for all ranks and has no deadline: a
/// rank that aborts must not hang in its exit. The launcher then ends the other ranks.
void skip_mpi_finalize() noexcept;

/// While one of these is open, the process ends without MPI_Finalize too: the other ranks may wait
/// in that group for a rank that is about to exit.
class OpenMpiGroup {
 public:
  OpenMpiGroup() noexcept;
  ~OpenMpiGroup() { end(); }
  OpenMpiGroup(const OpenMpiGroup&) = delete;
  OpenMpiGroup& operator=(const OpenMpiGroup&) = delete;
  void end() noexcept;

 private:
  bool is_open_ = true;
};

/// A communicator of our own, so that no message of the program is ever taken for one of ours.
/// Errors are returned and become exceptions; MPI's default would end the program.
///
/// Thread-safety: one thread at a time.
/// Owns: the communicator, which `free` gives back. A destructor cannot: that is collective.
class MpiCommunicator {
 public:
  /// Collective: a copy of MPI_COMM_WORLD.
  MpiCommunicator();
  /// Collective over `members`, ranks of `parent`, which get the ranks 0, 1, ... in this order.
  MpiCommunicator(const MpiCommunicator& parent, const std::vector<int>& members);

  void free();
  [[nodiscard]] MPI_Comm get() const noexcept { return handle_; }
  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int size() const noexcept { return size_; }

 private:
  void take_over();

  MPI_Comm handle_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

/// Requests of one step. Their buffers must stay until they are done; a destructor cannot wait for
/// that, so the owner of the buffers keeps them when requests are left.
class MpiRequests {
 public:
  /// The place for a new request's handle.
  [[nodiscard]] MPI_Request* add();
  /// True when all are done; never blocks.
  [[nodiscard]] bool test();
  [[nodiscard]] bool is_done(std::size_t index);
  [[nodiscard]] std::size_t size() const noexcept { return handles_.size(); }
  void clear() noexcept { handles_.clear(); }

 private:
  std::vector<MPI_Request> handles_;
};

}  // namespace lockstep::native

// SPDX-License-Identifier: BSD-3-Clause
#include "native/mpi/mpi_environment.h"

#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>  // Open MPI says there whether it knows CUDA, MPICH in mpi.h
#endif

#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>

#include "native/posix/owning_process.h"

namespace lockstep::native {
namespace {

// State of the process as a whole, as MPI itself is.
std::atomic<bool> is_finalize_skipped{false};
std::atomic<int> open_groups{0};

// The first group's process, once MPI runs in it: a fork that comes later cannot use that MPI, and
// one that comes before starts its own. Guarded by `starting`, as two threads may make groups.
std::optional<OwningProcess> mpi_process;
std::mutex starting;

void finalize_at_exit() {
  // A fork has a copy of all this, and none of the connections. A group that is open here was left
  // in the middle: others wait in it, and do not come to MPI_Finalize.
  if (!mpi_process->is_current() || is_finalize_skipped || open_groups > 0 || has_mpi_ended())
    return;
  MPI_Finalize();
}

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw std::runtime_error(std::string(call) + ": " + text.data());
}

bool has_mpi_ended() noexcept {
  int is_finalized = 0;
  return MPI_Finalized(&is_finalized) == MPI_SUCCESS && is_finalized != 0;
}

void check_mpi_runs() {
  // Any other call would end the program then.
  if (has_mpi_ended()) {
    throw std::runtime_error(
        "MPI has ended in this process; close() of its process groups comes before MPI_Finalize");
  }
}

void ensure_mpi() {
  const std::lock_guard lock(starting);
  if (has_mpi_ended()) throw std::runtime_error("MPI has ended in this process");
  if (mpi_process && !mpi_process->is_current()) {
    throw std::runtime_error(
        "MPI was started before the fork that made this process, and does not know it");
  }
  int is_initialized = 0;
  check_mpi(MPI_Initialized(&is_initialized), "MPI_Initialized");
  int level = MPI_THREAD_SINGLE;
  if (is_initialized != 0) {
    check_mpi(MPI_Query_thread(&level), "MPI_Query_thread");
    if (!mpi_process) mpi_process.emplace();
  } else {
    // So that two groups can be used by two threads at once.
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread");
    mpi_process.emplace();
    // A group cannot end MPI when it closes: MPI never starts twice, and the program may make
    // another group.
    std::atexit(finalize_at_exit);
  }
  if (level < MPI_THREAD_SERIALIZED) {
    throw std::runtime_error("MPI was started without MPI_THREAD_SERIALIZED");
  }
}

bool is_mpi_cuda_aware() {
#if (defined(OMPI_HAVE_MPI_EXT_CUDA) && OMPI_HAVE_MPI_EXT_CUDA) || \
    (defined(MPICH_NUMVERSION) && MPICH_NUMVERSION >= 40000000)
  return MPIX_Query_cuda_support() == 1;
#else
  return false;
#endif
}

void skip_mpi_finalize() noexcept {
  is_finalize_skipped = true;
}

OpenMpiGroup::OpenMpiGroup() noexcept {
  ++open_groups;
}

void OpenMpiGroup::end() noexcept {
  if (std::exchange(is_open_, false)) --open_groups;
}

MpiCommunicator::MpiCommunicator() {
  check_mpi_runs();
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &handle_), "MPI_Comm_dup");
  take_over();
}

MpiCommunicator::MpiCommunicator(const MpiCommunicator& parent, const std::vector<int>& members) {
  check_mpi_runs();
  MPI_Group all = MPI_GROUP_NULL;
  check_mpi(MPI_Comm_group(parent.handle_, &all), "MPI_Comm_group");
  MPI_Group chosen = MPI_GROUP_NULL;
  check_mpi(MPI_Group_incl(all, static_cast<int>(members.size()), members.data(), &chosen),
            "MPI_Group_incl");
  check_mpi(MPI_Comm_create_group(parent.handle_, chosen, 0, &handle_), "MPI_Comm_create_group");
  MPI_Group_free(&chosen);
  MPI_Group_free(&all);
  take_over();
}

void MpiCommunicator::take_over() {
  check_mpi(MPI_Comm_set_errhandler(handle_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(handle_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(handle_, &size_), "MPI_Comm_size");
}

void MpiCommunicator::free() {
  check_mpi_runs();
  if (handle_ != MPI_COMM_NULL) check_mpi(MPI_Comm_free(&handle_), "MPI_Comm_free");
}

MPI_Request* MpiRequests::add() {
  check_mpi_runs();
  return &handles_.emplace_back(MPI_REQUEST_NULL);
}

bool MpiRequests::test() {
  check_mpi_runs();
  int is_done = 0;
  check_mpi(MPI_Testall(static_cast<int>(handles_.size()), handles_.data(), &is_done,
                        MPI_STATUSES_IGNORE),
            "MPI_Testall");
  return is_done != 0;
}

bool MpiRequests::is_done(std::size_t index) {
  check_mpi_runs();
  int is_done = 0;
  check_mpi(MPI_Request_get_status(handles_[index], &is_done, MPI_STATUS_IGNORE),
            "MPI_Request_get_status");
  return is_done != 0;
}

}  // namespace lockstep::native

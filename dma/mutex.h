// A pthread mutex held for a scope.
#pragma once

#include <pagoda/gfp.h>

#include <pthread.h>

namespace pagoda::dma {

class locked {
  public:
    explicit locked(pthread_mutex_t &m) : m_(m) { pthread_mutex_lock(&m_); }
    ~locked() { pthread_mutex_unlock(&m_); }
    locked(const locked &) = delete;
    locked &operator=(const locked &) = delete;

  private:
    pthread_mutex_t &m_;
};

// The frees of this thread give nothing back that is mapped for devices.
class noio_scope {
  public:
    noio_scope() : flags_(memalloc_noio_save()) {}
    ~noio_scope() { memalloc_noio_restore(flags_); }
    noio_scope(const noio_scope &) = delete;
    noio_scope &operator=(const noio_scope &) = delete;

  private:
    unsigned flags_;
};

// For mutexes that giving back takes (spaces_release, spaces_withdraw): a free in a signal handler
// that interrupts the holder would wait for it.
class locked_noio {
  public:
    explicit locked_noio(pthread_mutex_t &m) : lock_(m) {}

  private:
    noio_scope noio_;
    locked lock_;
};

} // namespace pagoda::dma
